"""What the OpenAPI document's operations are put together from."""

from __future__ import annotations

from typing import Any

from salver.frontends.openapi_examples import Examples
from salver.frontends.openapi_schemas import reference

Operation = dict[str, Any]


def get_operation(operation: str, tag: str, summary: str, answers: Operation) -> Operation:
    """An operation that takes no body."""
    return operation_object(operation, tag, summary, answers)


def operation_object(
    operation: str, tag: str, summary: str, answers: Operation, *, description: str = "", body: Operation | None = None
) -> Operation:
    """An operation."""
    found: Operation = {"operationId": operation, "tags": [tag], "summary": summary}
    if description:
        found["description"] = description
    if body is not None:
        found["requestBody"] = body
    return found | {"responses": answers}


def parameter_reference(name: str) -> Operation:
    """A reference to one of the document's parameters."""
    return {"$ref": f"#/components/parameters/{name}"}


def json_answers(schema: str | None, *errors: str) -> Operation:
    """A JSON answer, and the errors besides those that any route may give."""
    answer = {} if schema is None else {"200": content_object("The answer.", json_content(schema))}
    return answer | error_answers(*errors)


def health_answers(schema: str, *errors: str) -> Operation:
    """Answers whose status says the same as their body."""
    return {
        "200": content_object("Yes.", json_content(schema)),
        "503": content_object("No.", json_content(schema)),
    } | error_answers(*errors)


def error_answers(*statuses: str) -> Operation:
    """References to the answers to errors, those that any route may give among them."""
    return {status: {"$ref": f"#/components/responses/{status}"} for status in sorted({*statuses, "405", "500"})}


def content_object(description: str, content: Operation) -> Operation:
    """An answer."""
    header = {"description": "The request's id, as the server's log has it.", "schema": {"type": "string"}}
    return {"description": description, "headers": {"x-request-id": header}, "content": content}


def json_content(schema: str, samples: Examples | None = None) -> Operation:
    """A JSON body."""
    content: Operation = {"schema": reference(schema)}
    if samples:
        content["examples"] = samples
    return {"application/json": content}


def json_body(schema: str, samples: Examples | None, *, required: bool = True) -> Operation:
    """The JSON body of a request."""
    return {"required": required, "content": json_content(schema, samples)}
