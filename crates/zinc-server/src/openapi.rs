//! The OpenAPI document: made of the table of routes and the tables of fields, so that it says what
//! the server does.

mod examples;

use serde_json::{Map, Value, json};

use self::examples::{EXAMPLES, LINKS};
use crate::routes::{ROUTES, Route};
use crate::schema::Components;

/// Statuses that every route may answer with, apart from its own.
const ERRORS: [(&str, &str); 14] = [
    ("400", "A field is wrong or not supported; the error names it."),
    ("401", "A key is missing or wrong."),
    ("403", "A server without keys was called by the name of another site."),
    ("404", "There is no such model."),
    ("405", "The route has no such method."),
    ("408", "The body did not arrive in time."),
    ("409", "The model is in use."),
    ("413", "The body is too large."),
    ("415", "The body is no JSON."),
    ("429", "Too many requests; retry-after says when to come again."),
    ("499", "The sending side was closed before a whole answer was there."),
    ("500", "An error of the server's own."),
    ("503", "Not now: loading, shutting down, or the device failed."),
    ("504", "The request took longer than the server allows."),
];

/// Statuses of heads that cannot be read. They come before any route, and without a body; so does 400
/// for a head that is no HTTP.
const HEAD_ERRORS: [(&str, &str); 2] = [
    ("414", "The path is too long; without a body."),
    ("431", "The head is too large; without a body."),
];

/// The document.
pub fn document() -> Value {
    let mut components = Components::default();
    responses(&mut components);
    let mut paths: Map<String, Value> = Map::new();
    for route in &ROUTES {
        let (path, parameters) = path_of(route.paths[0]);
        let method = if route.body.is_some() { "post" } else { "get" };
        let mut operation = operation(route, &mut components);
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        let mut item = json!({method: operation});
        if route.shadows_model {
            item["get"] = shadowed(&path, "show", "Show", "Model");
            item["delete"] = shadowed(&path, "remove", "Remove", "ModelDeleted");
        }
        if route.removes {
            item["delete"] = json!({
                "operationId": format!("{}_remove", operation_id(&path)),
                "summary": "Remove a model that was pulled or imported, with its files",
                "parameters": item["get"]["parameters"],
                "responses": done("ModelDeleted"),
                "security": keys(),
            });
        }
        paths.insert(path, item);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "zinc",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A local LLM inference server. Fields that are listed as not supported are \
                refused; fields that are not listed are refused too.",
        },
        "paths": paths,
        "components": {
            "schemas": components.into_map(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

/// axum's `{*id}` in OpenAPI's form, and the parameters of the path and its query.
fn path_of(path: &str) -> (String, Vec<Value>) {
    let parameters = match path {
        "/props" => vec![json!({
            "name": "model", "in": "query", "required": false, "schema": {"type": "string"},
            "description": "The model; without it, the active one.",
        })],
        path if path.contains("{*id}") => vec![json!({
            "name": "id", "in": "path", "required": true,
            "schema": {"type": "string", "minLength": 1}, "description": "The model.",
            "example": "zinc-demo",
        })],
        _ => Vec::new(),
    };
    (path.replace("{*id}", "{id}"), parameters)
}

/// The name of the operation of a route, for those who generate clients.
fn operation_id(path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// What a model has that is called as the last word of a route: see [`Route::shadows_model`].
fn shadowed(path: &str, what: &str, verb: &str, response: &str) -> Value {
    let word = path.rsplit('/').next().unwrap_or_default();
    let summary = format!("{verb} a model that is called {word:?}");
    let (id, responses) = (format!("{}_{what}", operation_id(path)), done(response));
    json!({"operationId": id, "summary": summary, "responses": responses, "security": keys()})
}

/// The responses of a route that answers with JSON of a schema.
fn done(response: &str) -> Map<String, Value> {
    let schema = json!({"$ref": format!("#/components/schemas/{response}")});
    let content = json!({"application/json": {"schema": schema}});
    let mut responses = errors("Error");
    responses.insert("200".into(), json!({"description": "Done.", "content": content}));
    responses
}

/// The responses that every route may have.
fn errors(envelope: &str) -> Map<String, Value> {
    let schema = json!({"$ref": format!("#/components/schemas/{envelope}")});
    let content = json!({"application/json": {"schema": schema}});
    let response = |(status, description): (&str, &str)| {
        (status.to_owned(), json!({"description": description, "content": content}))
    };
    let heads = HEAD_ERRORS
        .into_iter()
        .map(|(status, description)| (status.to_owned(), json!({"description": description})));
    ERRORS.into_iter().map(response).chain(heads).collect()
}

/// The server needs keys only if it was started with some; `{}` stands for none.
fn keys() -> Value {
    json!([{}, {"bearer": []}, {"key": []}])
}

/// Where the response of a route leads.
fn links(path: &str) -> Map<String, Value> {
    let link = |link: &examples::Link| {
        let mut value = json!({"operationId": operation_id(link.to)});
        match link.to.contains('{') {
            true => value["parameters"] = json!({link.field: link.value}),
            false => value["requestBody"] = json!({link.field: link.value}),
        }
        (link.name.to_owned(), value)
    };
    LINKS.iter().filter(|link| link.from == path).map(link).collect()
}

fn operation(route: &Route, components: &mut Components) -> Value {
    let mut content = Map::new();
    let schema = match route.response {
        Some(name) => json!({"$ref": format!("#/components/schemas/{name}")}),
        None => json!({"type": "string"}),
    };
    let media = if route.response.is_some() { "application/json" } else { "text/plain" };
    content.insert(media.into(), json!({"schema": schema}));
    if route.streams {
        // An item of the stream, as OpenAPI sees it; most streams name their events in the data alone.
        let texts = json!({"event": {"type": "string"}, "data": {"type": "string"}});
        let event = json!({"type": "object", "properties": texts, "required": ["data"]});
        content.insert("text/event-stream".into(), json!({"schema": event}));
    }
    let path = route.paths[0];
    let mut responses = errors(match path.starts_with("/v1/messages") {
        true => "AnthropicError",
        false => "Error",
    });
    let mut done = json!({"description": "Done.", "content": content});
    let links = links(path);
    if !links.is_empty() {
        done["links"] = Value::Object(links);
    }
    responses.insert("200".into(), done);
    let id = operation_id(path);
    let mut operation =
        json!({"operationId": id, "summary": route.summary, "responses": responses});
    operation["security"] = if path == "/health" { json!([]) } else { keys() };
    if let Some(body) = route.body {
        let schema = components.reference(body);
        let mut content = json!({"application/json": {"schema": schema}});
        let example = EXAMPLES.iter().find(|(at, _)| *at == path);
        if let Some(Ok(example)) = example.map(|(_, text)| serde_json::from_str::<Value>(text)) {
            content["application/json"]["example"] = example;
        }
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

const ANSWER: &[(&str, &str)] = &[
    ("id", "string"),
    ("object", "string"),
    ("created", "integer"),
    ("model", "string"),
    ("choices", "array"),
    ("usage", "object"),
];

/// The responses: the fields that are always there, with their types.
const RESPONSES: [(&str, &[(&str, &str)]); 17] = [
    ("ChatCompletion", ANSWER),
    ("Completion", ANSWER),
    (
        "Response",
        &[("id", "string"), ("object", "string"), ("status", "string"), ("output", "array")],
    ),
    ("Message", &[("id", "string"), ("type", "string"), ("role", "string"), ("content", "array")]),
    ("TokenCount", &[("input_tokens", "integer")]),
    ("Embeddings", &[("data", "array"), ("model", "string"), ("usage", "object")]),
    ("Ranking", &[("results", "array"), ("model", "string")]),
    ("ModelList", &[("object", "string"), ("data", "array")]),
    ("Model", &[("id", "string"), ("object", "string"), ("status", "object")]),
    ("ModelDeleted", &[("id", "string"), ("object", "string"), ("deleted", "boolean")]),
    ("ModelStatus", &[("success", "boolean"), ("model", "string")]),
    ("Tokens", &[("tokens", "array")]),
    ("Content", &[("content", "string")]),
    ("Prompt", &[("prompt", "string")]),
    ("Health", &[("status", "string")]),
    ("Properties", &[("model_alias", "string"), ("status", "string")]),
    ("Document", &[("openapi", "string"), ("paths", "object")]),
];

/// Schemas of the responses.
fn responses(components: &mut Components) {
    for (name, fields) in RESPONSES {
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let one = |(name, ty): &(&str, &str)| ((*name).to_owned(), json!({"type": ty}));
        let properties: Map<String, Value> = fields.iter().map(one).collect();
        let schema = json!({"type": "object", "required": names, "properties": properties});
        components.insert(name, schema);
    }
    components.insert("Slots", json!({"type": "array"}));
    let text = json!({"type": "string"});
    let maybe = json!({"type": ["string", "null"]});
    let error = json!({
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {"message": text, "type": text, "param": maybe, "code": maybe},
    });
    let envelope = json!({"type": "object", "required": ["error"], "properties": {"error": error}});
    components.insert("Error", envelope);
    let error = json!({
        "type": "object",
        "required": ["type", "message"],
        "properties": {"type": text, "message": text},
    });
    let envelope = json!({
        "type": "object",
        "required": ["type", "error"],
        "properties": {"type": {"const": "error"}, "error": error},
    });
    components.insert("AnthropicError", envelope);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference points at something, and every name is that of one thing.
    #[test]
    fn references_are_defined() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
            assert!(!schemas[name].is_null(), "{name}");
        }
    }

    #[test]
    fn examples_are_what_the_tables_want() {
        for (path, text) in EXAMPLES {
            let route = ROUTES.iter().find(|route| route.paths[0] == path).unwrap();
            let example: Value = serde_json::from_str(text).unwrap();
            let checked = route.body.unwrap().check(&example);
            assert!(checked.is_ok(), "{path}: {:?}", checked.err());
        }
    }

    #[test]
    fn links_lead_from_route_to_route() {
        for link in &LINKS {
            for path in [link.from, link.to] {
                assert!(ROUTES.iter().any(|route| route.paths[0] == path), "{path}");
            }
        }
        let ids: Vec<_> = ROUTES.iter().map(|route| operation_id(route.paths[0])).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn names_are_unique() {
        // One object that holds each body twice over would hide another of the same name.
        let mut seen: Vec<(&str, *const crate::schema::Object)> = Vec::new();
        for body in ROUTES.iter().filter_map(|route| route.body) {
            assert!(seen.iter().all(|(name, at)| *name != body.name || std::ptr::eq(*at, body)));
            seen.push((body.name, body));
        }
    }
}
