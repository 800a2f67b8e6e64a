"""nats-py: the same exchanges in msgpack and JSON, streams with their end marker, credit, and cancellation."""

import asyncio
import json
import os

import msgpack
import nats

checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise SystemExit(f"nats_python: FAILED: {what}")


class Codec:
    def __init__(self, name, dumps, loads):
        self.headers, self.dumps, self.loads = {"Content-Type": f"application/{name}"}, dumps, loads


CODECS = [Codec("json", lambda v: json.dumps(v).encode(), json.loads), Codec("msgpack", msgpack.packb, msgpack.unpackb)]
PROMPT = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


async def stream(nc, codec, subject, body, headers=None, on_message=None):
    """Sends a request and yields (headers, decoded body) until the end marker, an empty message."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    await nc.publish(subject, codec.dumps({**body, "stream": True}), reply=inbox, headers={**codec.headers, **(headers or {})})
    messages = []
    while True:
        m = await subscription.next_msg(timeout=10)
        if not m.data:
            await subscription.unsubscribe()
            return messages, m.headers
        messages.append(codec.loads(m.data))
        if on_message:
            await on_message(m, len(messages))


async def one_codec(nc, codec):
    reply = codec.loads((await nc.request("inf.v1.generate", codec.dumps(PROMPT), timeout=10, headers=codec.headers)).data)
    check(reply["usage"]["completion_tokens"] == 8, reply)
    messages, end = await stream(nc, codec, "inf.v1.generate", PROMPT)
    check("".join(c["text"] for m in messages for c in m["choices"]) == reply["choices"][0]["text"], messages)
    check([m["seq"] for m in messages] == list(range(1, len(messages) + 1)), messages)
    check(end["Troupe-End"] == "done" and end["Troupe-Count"] == str(len(messages)), end)
    m = await nc.request("inf.v1.generate", codec.dumps({"prompt": "a", "top_p": 7}), timeout=10, headers=codec.headers)
    check(m.headers["Nats-Service-Error-Code"] == "400", m.headers)
    check(codec.loads(m.data)["error"]["param"] == "top_p", m.data)

    # A request that runs is cancelled by the id in its first message.
    async def cancel(m, count):
        if count == 1:
            body = codec.dumps({"id": codec.loads(m.data)["id"]})
            answer = await nc.request("inf.v1.cancel", body, timeout=10, headers=codec.headers)
            check(codec.loads(answer.data)["cancelled"], answer.data)

    _, end = await stream(nc, codec, "inf.v1.generate", {"prompt": "a", "max_tokens": 1500, "ignore_eos": True}, on_message=cancel)
    check(end["Troupe-End"] == "error" and "cancel" in end["Nats-Service-Error"], end)


async def credit(nc):
    """A receiver that grants one message at a time gets one at a time."""
    granted = 1

    async def grant(m, count):
        nonlocal granted
        check(count <= granted, f"{count} messages for {granted} credits")
        subject = (m.headers or {}).get("Troupe-Credit-Subject") or grant.subject
        grant.subject = subject
        granted += 1
        await nc.publish(subject, b"1")

    messages, end = await stream(nc, CODECS[0], "inf.v1.generate", PROMPT, {"Troupe-Credit": "1"}, grant)
    check(end["Troupe-Count"] == str(len(messages)), end)


async def main():
    nc = await nats.connect(os.environ["TROUPE_NATS_URL"], connect_timeout=3, max_reconnect_attempts=0)
    for codec in CODECS:
        await one_codec(nc, codec)
    await credit(nc)
    await nc.close()
    print(f"nats_python.py: {checks} checks passed")


asyncio.run(asyncio.wait_for(main(), 60))
