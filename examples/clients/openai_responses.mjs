// Streams a response in the form of OpenAI's Responses API. Needs: npm install openai
import OpenAI from "openai";

const baseURL = (process.env.TROUPE_HTTP_URL ?? "http://127.0.0.1:8000") + "/v1";
const client = new OpenAI({ baseURL, apiKey: process.env.TROUPE_API_KEY ?? "-" });
const model = (await client.models.list()).data[0].id;
const events = await client.responses.create({ model, input: "Tell me a story.", max_output_tokens: 40, stream: true });
for await (const event of events) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
}
console.log();
