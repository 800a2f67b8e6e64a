"""Streams a continuation over NATS in msgpack. Needs: pip install nats-py msgpack"""

import asyncio
import os

import msgpack
import nats


async def main():
    nc = await nats.connect(os.environ.get("TROUPE_NATS_URL", "nats://127.0.0.1:4222"))
    inbox = nc.new_inbox()
    answer = await nc.subscribe(inbox)
    request = {"prompt": "Once upon a time", "max_tokens": 40, "stream": True}
    await nc.publish("inf.v1.generate", msgpack.packb(request), reply=inbox)
    while (message := await answer.next_msg(timeout=30)).data:  # an empty message ends the stream
        event = msgpack.unpackb(message.data)
        if "error" in event:
            raise SystemExit(event["error"]["message"])
        print("".join(choice["text"] for choice in event["choices"]), end="", flush=True)
    print()
    await nc.close()


asyncio.run(main())
