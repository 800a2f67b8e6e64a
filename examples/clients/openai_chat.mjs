// Streams a chat answer over HTTP. Needs: npm install openai
import OpenAI from "openai";

const baseURL = (process.env.TROUPE_HTTP_URL ?? "http://127.0.0.1:8000") + "/v1";
const client = new OpenAI({ baseURL, apiKey: "-" });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Tell me a story." }];
for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 40, stream: true })) {
  process.stdout.write(chunk.choices[0].delta.content ?? "");
}
console.log();
