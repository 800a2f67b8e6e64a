// NATS for JavaScript: a streamed answer by requestMany, which ends at the empty message.
import assert from "node:assert/strict";
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.TROUPE_NATS_URL, maxReconnectAttempts: 0, timeout: 3_000 });
const asJSON = headers();
asJSON.set("Content-Type", "application/json");
const request = { prompt: "Once upon a time", max_tokens: 8, temperature: 0 };

const reply = await nc.request("inf.v1.generate", JSON.stringify(request), { headers: asJSON, timeout: 10_000 });
const whole = reply.json().choices[0].text;
assert.ok(whole.length > 0);

let text = "", count = 0;
const messages = await nc.requestMany("inf.v1.generate", JSON.stringify({ ...request, stream: true }),
  { headers: asJSON, strategy: "sentinel", maxWait: 10_000 });
for await (const m of messages) {
  if (m.data.length === 0) break;
  count++;
  const event = m.json();
  assert.equal(event.seq, count);
  text += event.choices.map((c) => c.text).join("");
}
assert.ok(count > 1);
assert.equal(text, whole);
await nc.close();
console.log("nats_js.mjs: 4 checks passed");
