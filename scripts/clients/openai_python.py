"""The openai client for Python: whole and streamed answers, errors, and a client that stops reading."""

import os
import time

import openai

checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise SystemExit(f"openai_python: FAILED: {what}")


client = openai.OpenAI(base_url=os.environ["TROUPE_HTTP_URL"] + "/v1", api_key="-", max_retries=0, timeout=20)
model = client.models.list().data[0].id
story = [{"role": "user", "content": "Tell me a story."}]

answer = client.chat.completions.create(model=model, messages=story, max_tokens=12, temperature=0)
check(answer.choices[0].message.role == "assistant", answer)
check(answer.choices[0].finish_reason in ("length", "stop"), answer)
check(0 < answer.usage.completion_tokens <= 12, answer.usage)

text, usage, finish = "", None, None
for chunk in client.chat.completions.create(model=model, messages=story, max_tokens=12, temperature=0, stream=True,
                                            stream_options={"include_usage": True}):
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
check(text == answer.choices[0].message.content, f"{text!r} is not {answer.choices[0].message.content!r}")
check(usage is not None and usage.completion_tokens == answer.usage.completion_tokens, usage)
check(finish == answer.choices[0].finish_reason, finish)

several = client.completions.create(model=model, prompt=["The king", "A ship"], n=2, max_tokens=4, temperature=0.9, seed=7)
check([c.index for c in several.choices] == [0, 1, 2, 3], several)
again = client.completions.create(model=model, prompt=["The king", "A ship"], n=2, max_tokens=4, temperature=0.9, seed=7)
check([c.text for c in several.choices] == [c.text for c in again.choices], "the same seed gave other texts")

stopped = client.completions.create(model=model, prompt="Once upon a time", max_tokens=60, temperature=0, stop=[" "])
check(" " not in stopped.choices[0].text and stopped.choices[0].finish_reason == "stop", stopped)

for kind, call in {
    openai.BadRequestError: lambda: client.chat.completions.create(model=model, messages=story, temperature=-1),
    openai.NotFoundError: lambda: client.chat.completions.create(model="nosuch", messages=story),
}.items():
    try:
        call()
        check(False, f"no {kind.__name__}")
    except kind as e:
        check(e.param in ("temperature", "model"), e)

with client.completions.create(model=model, prompt="a", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}) as stream:
    next(iter(stream))
deadline = time.monotonic() + 10
while True:  # leaving the loop closed the connection: the sequence must go
    state = client._client.get(os.environ["TROUPE_HTTP_URL"] + "/debug/scheduler/state").json()
    if state["running"] == 0 and state["waiting"] == 0:
        break
    if time.monotonic() > deadline:
        check(False, f"the sequence still runs: {state}")
    time.sleep(0.05)
checks += 1
print(f"openai_python.py: {checks} checks passed")
