"""langchain-openai, unmodified, against a running server."""

import os

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

URL, KEY = os.environ["ZINC_URL"], os.environ["ZINC_KEY"]
common = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0, "timeout": 120}
llm = ChatOpenAI(model="zinc-demo", temperature=0, max_tokens=200, **common)


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


ask = [SystemMessage("Be brief."), HumanMessage("Tell me a story about a fox.")]
whole = llm.invoke(ask)
assert whole.content and whole.usage_metadata["output_tokens"] > 0
streamed = "".join(chunk.content for chunk in llm.stream(ask))
assert streamed == whole.content, (streamed, whole.content)

person = llm.with_structured_output(Person, method="json_schema").invoke("Invent a person.")
assert isinstance(person, Person) and len(person.name) <= 12

question = HumanMessage("What is the weather in Paris?")
called = llm.bind_tools([get_weather], tool_choice="required").invoke([question])
call = called.tool_calls[0]
assert call["name"] == "get_weather" and isinstance(call["args"]["city"], str)
result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
assert llm.bind_tools([get_weather]).invoke([question, called, result]) is not None

vectors = OpenAIEmbeddings(model="zinc-demo", check_embedding_ctx_length=False, **common).embed_documents(["a fox", "numbers"])
assert len(vectors) == 2 and len(vectors[0]) == len(vectors[1])
print("ok")
