"""The openai client for Python: every endpoint, whole and streamed; tools, structured output, log-probabilities,
errors, and clients that stop reading."""

import json
import math
import os
import time
from typing import Literal

import openai
from pydantic import BaseModel

checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise SystemExit(f"openai_python: FAILED: {what}")


url = os.environ["TROUPE_HTTP_URL"]
client = openai.OpenAI(base_url=url + "/v1", api_key="-", max_retries=0, timeout=60)
model = client.models.list().data[0].id
story = [{"role": "user", "content": "Tell me a story."}]
PAINT = {"name": "paint", "description": "Paints the wall.", "strict": True, "parameters": {
    "type": "object", "properties": {"color": {"type": "string", "enum": ["red", "green"]}}, "required": ["color"], "additionalProperties": False}}


class Wall(BaseModel):
    color: Literal["red", "green"]
    coats: int


def chat():
    answer = client.chat.completions.create(model=model, messages=story, max_tokens=12, temperature=0)
    check(answer.choices[0].message.role == "assistant", answer)
    check(answer.choices[0].finish_reason in ("length", "stop"), answer)
    check(0 < answer.usage.completion_tokens <= 12, answer.usage)
    text, usage, finish = "", None, None
    for chunk in client.chat.completions.create(model=model, messages=story, max_tokens=12, temperature=0, stream=True,
                                                stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    check(text == answer.choices[0].message.content, f"{text!r} is not {answer.choices[0].message.content!r}")
    check(usage is not None and usage.completion_tokens == answer.usage.completion_tokens, usage)
    check(finish == answer.choices[0].finish_reason, finish)
    many = client.chat.completions.create(model=model, messages=story, max_tokens=8, n=3, seed=5, temperature=1.2)
    check([c.index for c in many.choices] == [0, 1, 2], many)
    check(client.models.retrieve(model).id == model, "the model by its id")


def completions():
    several = client.completions.create(model=model, prompt=["The king", "A ship"], n=2, max_tokens=4, temperature=0.9, seed=7)
    check([c.index for c in several.choices] == [0, 1, 2, 3], several)
    again = client.completions.create(model=model, prompt=["The king", "A ship"], n=2, max_tokens=4, temperature=0.9, seed=7)
    check([c.text for c in several.choices] == [c.text for c in again.choices], "the same seed gave other texts")
    stopped = client.completions.create(model=model, prompt="Once upon a time", max_tokens=60, temperature=0, stop=[" "])
    check(" " not in stopped.choices[0].text and stopped.choices[0].finish_reason == "stop", stopped)
    echoed = client.completions.create(model=model, prompt="Once upon", max_tokens=2, temperature=0, echo=True)
    check(echoed.choices[0].text.startswith("Once upon"), echoed)
    biased = client.completions.create(model=model, prompt="Once", max_tokens=3, temperature=0, logit_bias={"300": 100})
    want = client.post("/../detokenize", body={"tokens": [300, 300, 300]}, cast_to=object)["prompt"]
    check(biased.choices[0].text == want, f"{biased.choices[0].text!r} is not {want!r}")


def logprobs():
    answer = client.chat.completions.create(model=model, messages=story, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    check(bytes(b for t in tokens for b in t.bytes).decode() == answer.choices[0].message.content, "the tokens are not the text")
    check(all(t.top_logprobs[0].token == t.token and len(t.top_logprobs) == 3 for t in tokens), "greedy tokens are the likeliest")
    check(all(sum(math.exp(p.logprob) for p in t.top_logprobs) <= 1.001 for t in tokens), "probabilities exceed 1")
    streamed = [t for chunk in client.chat.completions.create(model=model, messages=story, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, stream=True)
                for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    check([(t.token, round(t.logprob, 3)) for t in streamed] == [(t.token, round(t.logprob, 3)) for t in tokens], "streamed log-probabilities differ")
    scored = client.completions.create(model=model, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1).choices[0]
    check(scored.logprobs.token_logprobs[0] is None and all(p <= 0 for p in scored.logprobs.token_logprobs[1:]), scored)
    for offset, token, following in zip(scored.logprobs.text_offset[1:], scored.logprobs.tokens[1:], scored.logprobs.text_offset[2:]):
        check(scored.text[offset:following] == token, f"offset {offset} of {token!r}")
    prompt = client.completions.create(model=model, prompt="Once upon", max_tokens=1, extra_body={"prompt_logprobs": 2}).choices[0]
    check(prompt.prompt_logprobs[0] is None and all(v["logprob"] <= 0 for p in prompt.prompt_logprobs[1:] for v in p.values()), prompt)


def structured():
    for _ in range(3):
        wall = client.chat.completions.parse(model=model, messages=story, max_tokens=80, response_format=Wall).choices[0].message.parsed
        check(wall.color in ("red", "green"), wall)
    free = client.chat.completions.create(model=model, messages=story, max_tokens=120, response_format={"type": "json_object"})
    check(isinstance(json.loads(free.choices[0].message.content), dict), free)
    for extra, allowed in (({"regex": "(yes|no), sir"}, ("yes, sir", "no, sir")), ({"guided_choice": ["a b", 'c"d']}, ("a b", 'c"d')),
                           ({"grammar": 'root ::= "x" | "y"'}, ("x", "y"))):
        answer = client.chat.completions.create(model=model, messages=story, max_tokens=30, extra_body=extra)
        check(answer.choices[0].message.content in allowed, answer)


def tools():
    listed = [{"type": "function", "function": PAINT}]
    for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
        answer = client.chat.completions.create(model=model, messages=story, max_tokens=200, tools=listed, tool_choice=choice, parallel_tool_calls=False)
        calls = answer.choices[0].message.tool_calls
        check(answer.choices[0].finish_reason == "tool_calls" and len(calls) == 1 and calls[0].function.name == "paint", answer)
        check(json.loads(calls[0].function.arguments)["color"] in ("red", "green"), calls)
    with client.chat.completions.stream(model=model, messages=story, max_tokens=200, tools=listed, tool_choice="required", parallel_tool_calls=False) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    check("tool_calls.function.arguments.done" in kinds, kinds)
    check(final.choices[0].message.tool_calls[0].function.parsed_arguments["color"] in ("red", "green"), final)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "painted"} for call in calls]
    told = client.chat.completions.create(model=model, messages=[*story, answer.choices[0].message, *results], max_tokens=8, tools=listed, tool_choice="none")
    check(told.choices[0].message.tool_calls is None and told.usage.prompt_tokens > answer.usage.prompt_tokens, told)
    auto = client.chat.completions.create(model=model, messages=story, max_tokens=8, tools=listed)
    check(auto.choices[0].finish_reason in ("stop", "length", "tool_calls"), auto)


def responses():
    answer = client.responses.create(model=model, input="Tell me a story.", max_output_tokens=16, temperature=0)
    check(answer.status in ("completed", "incomplete") and answer.output_text, answer)
    with client.responses.stream(model=model, input=story, max_output_tokens=16, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response() if events[-1].type == "response.completed" else events[-1].response
    check(final.output_text == answer.output_text, f"{final.output_text!r} is not {answer.output_text!r}")
    check([e.sequence_number for e in events] == list(range(len(events))), "sequence numbers")
    check("".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text, "deltas")
    parsed = client.responses.parse(model=model, input="Describe a wall.", text_format=Wall, max_output_tokens=80)
    check(parsed.output_parsed.color in ("red", "green"), parsed)
    called = client.responses.create(model=model, input="Paint it.", tools=[{"type": "function", **PAINT}], tool_choice="required",
                                     parallel_tool_calls=False, max_output_tokens=200)
    check(called.output[0].type == "function_call" and json.loads(called.output[0].arguments)["color"] in ("red", "green"), called)
    turns = [{"role": "user", "content": "Paint it."}, *called.output, {"type": "function_call_output", "call_id": called.output[0].call_id, "output": "painted"}]
    check(client.responses.create(model=model, input=turns, max_output_tokens=8).output_text is not None, "the call's output")


def embeddings():
    plain = client.embeddings.create(model=model, input=["a king", "a king", "a ship"], encoding_format="float")
    coded = client.embeddings.create(model=model, input=["a king", "a king", "a ship"])  # the client asks for base64
    vectors = [e.embedding for e in plain.data]
    check(all(abs(sum(x * x for x in v) - 1) < 1e-3 for v in vectors), "not of length 1")
    check(vectors[0] == vectors[1] != vectors[2], "equal texts, equal vectors")
    check(all(abs(a - b) < 1e-6 for p, c in zip(plain.data, coded.data) for a, b in zip(p.embedding, c.embedding)), "base64 differs")
    check(plain.usage.prompt_tokens == plain.usage.total_tokens > 0, plain.usage)
    batch = client.embeddings.create(model=model, input=[f"text {i}" for i in range(600)])
    check([e.index for e in batch.data] == list(range(600)), "a large batch")


def errors():
    for kind, param, call in (
        (openai.BadRequestError, "temperature", lambda: client.chat.completions.create(model=model, messages=story, temperature=-1)),
        (openai.NotFoundError, "model", lambda: client.chat.completions.create(model="nosuch", messages=story)),
        (openai.NotFoundError, "model", lambda: client.models.retrieve("no/such")),
        (openai.BadRequestError, "input", lambda: client.embeddings.create(model=model, input="")),
        (openai.UnprocessableEntityError, "previous_response_id", lambda: client.responses.create(model=model, input="a", previous_response_id="resp_1")),
        (openai.BadRequestError, "regex", lambda: client.completions.create(model=model, prompt="a", extra_body={"regex": "("})),
        (openai.BadRequestError, "max_tokens", lambda: client.completions.create(model=model, prompt="a", max_tokens=10**9)),
    ):
        try:
            call()
            check(False, f"no {kind.__name__} for {param}")
        except kind as e:
            check(e.param == param, e)


def idle():
    deadline = time.monotonic() + 10
    while True:
        state = client._client.get(url + "/debug/scheduler/state").json()
        if state["running"] == 0 and state["waiting"] == 0:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def leaving():
    for start in (
        lambda: client.completions.create(model=model, prompt="a", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}),
        lambda: client.chat.completions.create(model=model, messages=story, max_tokens=1500, n=4, stream=True, extra_body={"ignore_eos": True}),
        lambda: client.responses.create(model=model, input="Tell me a story.", max_output_tokens=1500, stream=True, text={"format": {"type": "json_object"}}),
    ):
        with start() as stream:
            next(iter(stream))
        check(idle(), "the sequence of a client that left still runs")
    impatient = client.with_options(timeout=0.2)
    for call in (lambda: impatient.completions.create(model=model, prompt="a", max_tokens=1900, n=16, extra_body={"ignore_eos": True}),
                 lambda: impatient.embeddings.create(model=model, input=["word " * 300] * 500)):
        try:
            call()
        except openai.APITimeoutError:
            pass
        check(idle(), "the request of a client that timed out still runs")


for part in (chat, completions, logprobs, structured, tools, responses, embeddings, errors, leaving):
    part()
print(f"openai_python.py: {checks} checks passed")
