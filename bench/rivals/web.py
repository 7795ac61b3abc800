"""The shop's HTTP endpoint: it takes the order and the credit, and sends the task."""

import sys
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from shop import shop

if sys.argv[1] == "celery":
    from celery_tasks import send
else:
    from dramatiq_tasks import send


@asynccontextmanager
async def ready(_: FastAPI) -> Any:
    shop.ready()
    yield


app = FastAPI(lifespan=ready)
Bearer = Annotated[str, Header(alias="authorization", pattern="^Bearer .+")]


class Order(BaseModel):
    prompt: str = Field(min_length=1, max_length=4000)
    side: int = Field(ge=64, le=4096)


@app.post("/orders", status_code=202)
def create(order: Order, authorization: Bearer) -> dict[str, Any]:
    order_id = uuid4()
    if not shop.take(order_id, authorization[7:], order.prompt, order.side):
        raise HTTPException(402)
    send(str(order_id))
    return {"id": str(order_id), "status": "queued"}


@app.get("/orders/{order_id}")
def read(order_id: UUID, authorization: Bearer) -> dict[str, Any]:
    found = shop.find(order_id, authorization[7:])
    if found is None:
        raise HTTPException(404)
    return found


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
