// The openai client for JavaScript: every endpoint, whole and streamed; tools, structured output, log-probabilities,
// errors, and clients that stop reading.
import assertAll from "node:assert/strict";
import OpenAI from "openai";

let checks = 0;
const assert = new Proxy(assertAll, { get: (target, name) => (...args) => (checks++, target[name](...args)) });

const url = process.env.TROUPE_HTTP_URL;
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "-", maxRetries: 0, timeout: 60_000 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Tell me a story." }];
const request = { model, messages, max_tokens: 12, temperature: 0 };
const colors = { type: "object", properties: { color: { type: "string", enum: ["red", "green"] } }, required: ["color"], additionalProperties: false };
const paint = { name: "paint", description: "Paints the wall.", parameters: colors, strict: true };

async function chat() {
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
  const several = await client.chat.completions.create({ ...request, temperature: 1, n: 3 });
  assert.deepEqual(several.choices.map((c) => c.index), [0, 1, 2]);
  assert.equal((await client.models.retrieve(model)).id, model);
}

async function completions() {
  const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5, temperature: 0 });
  assert.equal(completion.usage.completion_tokens, 5);
  let text = "";
  for await (const event of await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5, temperature: 0, stream: true })) {
    text += event.choices[0].text;
  }
  assert.equal(text, completion.choices[0].text);
}

async function logprobs() {
  const { choices: [choice] } = await client.chat.completions.create({ ...request, logprobs: true, top_logprobs: 2 });
  const bytes = choice.logprobs.content.flatMap((t) => t.bytes);
  assert.equal(Buffer.from(bytes).toString(), choice.message.content);
  assert.ok(choice.logprobs.content.every((t) => t.top_logprobs.length === 2 && t.logprob <= 0));
}

async function structured() {
  const response_format = { type: "json_schema", json_schema: { name: "wall", schema: colors, strict: true } };
  const answer = await client.chat.completions.parse({ ...request, max_tokens: 60, temperature: 1, response_format });
  assert.ok(["red", "green"].includes(answer.choices[0].message.parsed.color));
}

async function tools() {
  const asked = { ...request, max_tokens: 200, tools: [{ type: "function", function: paint }], tool_choice: "required", parallel_tool_calls: false };
  const whole = await client.chat.completions.create(asked);
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  assert.ok(["red", "green"].includes(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments).color));
  const stream = client.chat.completions.stream(asked);
  const final = await stream.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.equal(call.function.name, "paint");
  assert.equal(call.function.arguments, whole.choices[0].message.tool_calls[0].function.arguments);
  const messages = [...request.messages, final.choices[0].message, { role: "tool", tool_call_id: call.id, content: "painted" }];
  const told = await client.chat.completions.create({ ...asked, messages, max_tokens: 8, tool_choice: "none" });
  assert.ok(told.usage.prompt_tokens > whole.usage.prompt_tokens);
}

async function responses() {
  const asked = { model, input: "Tell me a story.", max_output_tokens: 16, temperature: 0 };
  const whole = await client.responses.create(asked);
  assert.ok(whole.output_text.length > 0);
  let text = "", last;
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(text, whole.output_text);
  assert.equal(last.type, "response." + whole.status);
  const called = await client.responses.create({ ...asked, max_output_tokens: 200, tools: [{ type: "function", ...paint }], tool_choice: { type: "function", name: "paint" } });
  assert.equal(called.output[0].type, "function_call");
  assert.ok(["red", "green"].includes(JSON.parse(called.output[0].arguments).color));
}

async function embeddings() {
  const coded = await client.embeddings.create({ model, input: ["a king", "a ship"] }); // the client asks for base64
  const plain = await client.embeddings.create({ model, input: ["a king", "a ship"], encoding_format: "float" });
  assert.equal(coded.data.length, 2);
  assert.ok(plain.data[0].embedding.every((x, i) => Math.abs(x - coded.data[0].embedding[i]) < 1e-6));
}

async function errors() {
  const refused = (promise, status, param) => assert.rejects(promise, (e) => e.status === status && e.param === param);
  await refused(client.chat.completions.create({ ...request, temperature: -1 }), 400, "temperature");
  await refused(client.chat.completions.create({ ...request, model: "nosuch" }), 404, "model");
  await refused(client.responses.create({ model, input: "a", previous_response_id: "resp_1" }), 422, "previous_response_id");
  await refused(client.embeddings.create({ model, input: "" }), 400, "input");
}

async function idle() {
  for (let i = 0; i < 200; i++) {
    const state = await (await fetch(url + "/debug/scheduler/state")).json();
    if (state.running === 0 && state.waiting === 0) return true;
    await new Promise((done) => setTimeout(done, 50));
  }
  return false;
}

async function leaving() {
  const long = { ...request, max_tokens: 1500, ignore_eos: true };
  for await (const _ of await client.chat.completions.create({ ...long, stream: true })) break;
  assert.ok(await idle());
  const abort = new AbortController();
  const whole = client.chat.completions.create({ ...long, n: 8 }, { signal: abort.signal });
  setTimeout(() => abort.abort(), 100);
  await assert.rejects(whole);
  assert.ok(await idle());
}

for (const part of [chat, completions, logprobs, structured, tools, responses, embeddings, errors, leaving]) await part();
console.log(`openai_js.mjs: ${checks} checks passed`);
