"""Loaded by schemathesis: requests name a model that exists and ask for little, so that the rest matters."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    model = body.get("model") if isinstance(body, dict) else None
    if isinstance(model, str) and 1 <= len(model) <= 256:  # what is wrong stays wrong
        body["model"] = "small"
        for name in ("max_tokens", "max_completion_tokens"):
            value = body.get(name)
            if name == "max_tokens" and value is None:
                continue
            if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 4):
                body[name] = 4
    return body
