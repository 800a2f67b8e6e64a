// A scheduling policy in JavaScript: shortest job first, with ageing. An engine asks it before its steps.
//
//     npm install @nats-io/transport-node @msgpack/msgpack
//     node policy.mjs my-sjf nats://127.0.0.1:4222 &
//     troupe serve --policy nats:my-sjf

import { connect, headers } from "@nats-io/transport-node";
import { decode, encode } from "@msgpack/msgpack";

const SUBJECT = "inf.v1.policy.rank.";
const TOKEN_MS = 20; // a token of work less is worth so many milliseconds of waiting, so nobody starves

// Lists and maps of a question are short: only its columns are long, and those are bin fields.
const LIMITS = { maxArrayLength: 64, maxMapLength: 64 };

// int32s reads a column: a bin field of little-endian 32-bit integers.
function int32s(q, name) {
  return new Int32Array(Uint8Array.from(q[name]).buffer); // a copy, which is aligned
}

// rank returns the indices of the rows, the first to be served first.
function rank(q) {
  const [age, output, most, prompt, computed, arrival] =
    ["age_ms", "output", "max_tokens", "prompt", "computed", "arrival"].map((name) => int32s(q, name));
  if ([age, output, most, prompt, computed].some((c) => c.length !== arrival.length)) throw new Error("the columns differ in length");
  const key = Array.from(arrival, (_, row) => {
    const left = most[row] - output[row] + Math.trunc(Math.max(0, prompt[row] - computed[row]) / 16);
    return left * TOKEN_MS - age[row];
  });
  return Int32Array.from(arrival.keys()).sort((a, b) => key[a] - key[b] || arrival[a] - arrival[b]);
}

function answer(m) {
  try {
    const q = decode(m.data, LIMITS);
    if (q.version !== 1) throw new Error(`version ${q.version} of the question is not known`);
    m.respond(encode({ number: q.number, order: new Uint8Array(rank(q).buffer) }));
  } catch (e) { // whatever is wrong with a question, the next one may be fine
    const h = headers();
    h.set("Nats-Service-Error-Code", "400");
    h.set("Nats-Service-Error", String(e).replaceAll(/[\r\n]/g, " ").slice(0, 200));
    m.respond(undefined, { headers: h });
  }
}

const [name, servers = "nats://127.0.0.1:4222"] = process.argv.slice(2);
const nc = await connect({ servers, maxReconnectAttempts: -1 });
nc.subscribe(SUBJECT + name, { callback: (err, m) => err || answer(m) });
await nc.flush();
console.log(`policy.mjs answers on ${SUBJECT}${name}`);
