"""Runs the steps of a client script and prints what each one saw, as one JSON object."""

import asyncio
import inspect
import json
import traceback


def run(steps):
    """`steps`: functions without arguments, plain or async. One that raises gives {"raised": traceback}."""
    seen = {}
    for step in steps:
        try:
            result = step()
            seen[step.__name__] = asyncio.run(result) if inspect.isawaitable(result) else result
        except Exception:
            seen[step.__name__] = {"raised": traceback.format_exc()}
    print(json.dumps(seen))


def refusal(call):
    """What the client makes of a refusal: its exception class, the status and what the error body says."""
    try:
        call()
    except Exception as error:
        body = getattr(error, "body", None)
        return {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "type": getattr(error, "type", None),
            "request_id": getattr(error, "request_id", None),
            "retry_after": error.response.headers.get("retry-after") if hasattr(error, "response") else None,
            "body": body if isinstance(body, dict) else None,
        }
    return {"class": None}
