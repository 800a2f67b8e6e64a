"""A scheduling policy in Python: shortest job first, with ageing. An engine asks it before its steps.

    pip install nats-py msgpack
    python3 policy.py my-sjf nats://127.0.0.1:4222 &
    troupe serve --policy nats:my-sjf
"""

import array
import asyncio
import sys

import msgpack
import nats

SUBJECT = "inf.v1.policy.rank."
TOKEN_MS = 20  # a token of work less is worth so many milliseconds of waiting, so nobody starves


def column(q, name, code):
    """A column is a bin field of little-endian elements: i is int32, Q is uint64, B is a byte."""
    c = array.array(code)
    c.frombytes(q[name])
    return c


def rank(q):
    """The indices of the rows, the first to be served first."""
    age, output, most = column(q, "age_ms", "i"), column(q, "output", "i"), column(q, "max_tokens", "i")
    prompt, computed = column(q, "prompt", "i"), column(q, "computed", "i")

    def key(row):
        left = most[row] - output[row] + max(0, prompt[row] - computed[row]) // 16
        return left * TOKEN_MS - age[row]

    arrival = column(q, "arrival", "i")
    rows = range(len(arrival))
    if any(len(c) != len(rows) for c in (age, output, most, prompt, computed)):
        raise ValueError("the columns differ in length")
    return sorted(rows, key=lambda row: (key(row), arrival[row]))


def answer(data):
    """A question's answer, or the headers that say what is wrong with it."""
    try:
        q = msgpack.unpackb(data)
        if q["version"] != 1:
            raise ValueError(f"version {q['version']} of the question is not known")
        return msgpack.packb({"number": q["number"], "order": array.array("i", rank(q)).tobytes()}), None
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
    print(f"policy.py answers on {SUBJECT}{name}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "nats://127.0.0.1:4222"))
