"""A routing policy in Python: the replica with the least work before the first token. A gateway asks it for each request.

    pip install nats-py msgpack
    python3 route.py my-router nats://127.0.0.1:4222 &
    troupe serve --leaf 127.0.0.1:7422 --routing nats:my-router
"""

import array
import asyncio
import sys

import msgpack
import nats

SUBJECT = "inf.v1.policy.route."
RUNNING_TOKENS = 16  # what a running sequence costs, in prompt tokens to compute: its share of the steps
PLACE_TOKENS = 512  # what waiting for a place costs, for each request that has to end before


def column(q, name, code):
    """A column is a bin field of little-endian elements: i is int32, Q is uint64."""
    c = array.array(code)
    c.frombytes(q[name])
    return c


def route(q):
    """The index of the replica that gets the request."""
    names = ("uncached", "requests", "queued", "sequences_max", "free_blocks", "block_size")
    rows = list(zip(*(column(q, name, "i") for name in names), column(q, "routed", "Q"), strict=True))
    if len(rows) != len(q["replica"]):
        raise ValueError("the columns differ in length")

    def cost(row):
        uncached, requests, queued, places, free, size, routed = rows[row]
        tokens = uncached + queued + RUNNING_TOKENS * min(requests, places)
        tokens += PLACE_TOKENS * max(0, requests + 1 - places)
        if size > 0:  # blocks that have to be freed by others first
            tokens += size * max(0, uncached // size + 1 - free)
        return tokens, requests / places, queued, routed

    return min(range(len(rows)), key=cost)


def answer(data):
    """A question's answer, or the headers that say what is wrong with it."""
    try:
        q = msgpack.unpackb(data)
        if q["version"] != 1:
            raise ValueError(f"version {q['version']} of the question is not known")
        return msgpack.packb({"number": q["number"], "choice": route(q)}), None
    except Exception as e:  # whatever is wrong with a question, the next one may be fine
        reason = f"{type(e).__name__}: {e}".replace("\n", " ").replace("\r", " ")[:200]
        return b"", {"Nats-Service-Error-Code": "400", "Nats-Service-Error": reason}


async def main(name, url):
    nc = await nats.connect(url, max_reconnect_attempts=-1)

    async def asked(m):
        body, errors = answer(m.data)
        await nc.publish(m.reply, body, headers=errors)

    await nc.subscribe(SUBJECT + name, cb=asked)
    await nc.flush()
    print(f"route.py answers on {SUBJECT}{name}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "nats://127.0.0.1:4222"))
