// The openai client for JavaScript: whole and streamed answers, and errors.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.TROUPE_HTTP_URL + "/v1", apiKey: "-", maxRetries: 0, timeout: 20_000 });
const model = (await client.models.list()).data[0].id;
const request = { model, messages: [{ role: "user", content: "Tell me a story." }], max_tokens: 12, temperature: 0 };

const whole = await client.chat.completions.create(request);
assert.equal(whole.choices[0].message.role, "assistant");
assert.ok(whole.usage.completion_tokens > 0);

let text = "", usage;
for await (const chunk of await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);

const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5, temperature: 0 });
assert.equal(completion.usage.completion_tokens, 5);

await assert.rejects(client.chat.completions.create({ ...request, temperature: -1 }), (e) => e.status === 400 && e.param === "temperature");
await assert.rejects(client.chat.completions.create({ ...request, model: "nosuch" }), (e) => e.status === 404);
console.log("openai_js.mjs: 7 checks passed");
