//! The table of routes: the router and the OpenAPI document are made of it.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::{catalog, chat, completions, embeddings, messages, models, native, responses};
use crate::app::App;
use crate::schema::Object;
use crate::{ApiError, layers, openapi, reply, ui};

/// A route.
pub struct Route {
    /// Its paths; the first is the one that is documented.
    pub paths: &'static [&'static str],
    /// Its body; routes without one are read with GET.
    pub body: Option<&'static Object>,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// The schema of its response, by its name in the document; `None` is text.
    pub response: Option<&'static str>,
    /// Whether it may stream.
    pub streams: bool,
    /// Whether its path hides `/v1/models/{id}` for a model of that name, so that it shows that with GET and
    /// removes it with DELETE.
    pub shadows_model: bool,
    /// Whether DELETE removes what it shows.
    pub removes: bool,
    handler: fn() -> MethodRouter<Arc<App>>,
}

const fn route(
    paths: &'static [&'static str],
    body: Option<&'static Object>,
    summary: &'static str,
    response: Option<&'static str>,
    handler: fn() -> MethodRouter<Arc<App>>,
) -> Route {
    let (streams, shadows_model, removes) = (false, false, false);
    Route { paths, body, summary, response, streams, shadows_model, removes, handler }
}

const fn stream(route: Route) -> Route {
    Route { streams: true, ..route }
}

const fn shadow(route: Route) -> Route {
    Route { shadows_model: true, ..route }
}

const fn removable(route: Route) -> Route {
    Route { removes: true, ..route }
}

/// All routes.
pub static ROUTES: [Route; 22] = [
    stream(route(
        &["/v1/chat/completions", "/chat/completions"],
        Some(&chat::BODY),
        "Answer a conversation",
        Some("ChatCompletion"),
        || post(chat::handle),
    )),
    stream(route(
        &["/v1/completions"],
        Some(&completions::BODY),
        "Continue texts",
        Some("Completion"),
        || post(completions::handle),
    )),
    stream(route(
        &["/v1/responses"],
        Some(&responses::BODY),
        "Answer a conversation, OpenAI's newer API",
        Some("Response"),
        || post(responses::handle),
    )),
    stream(route(
        &["/v1/messages"],
        Some(&messages::BODY),
        "Answer a conversation, Anthropic's API",
        Some("Message"),
        || post(messages::handle),
    )),
    route(
        &["/v1/messages/count_tokens"],
        Some(&messages::COUNT),
        "Count the tokens of a conversation",
        Some("TokenCount"),
        || post(messages::count_tokens),
    ),
    route(
        &["/v1/embeddings"],
        Some(&embeddings::EMBEDDINGS),
        "Texts to vectors",
        Some("Embeddings"),
        || post(embeddings::embeddings),
    ),
    route(
        &["/v1/rerank", "/rerank"],
        Some(&embeddings::RERANK),
        "Order documents by a query",
        Some("Ranking"),
        || post(embeddings::rerank),
    ),
    route(&["/v1/models", "/models"], None, "List the models", Some("ModelList"), || {
        get(models::list)
    }),
    removable(route(&["/v1/models/{*id}"], None, "Show a model", Some("Model"), || {
        get(models::show).delete(models::remove)
    })),
    shadow(route(
        &["/v1/models/load", "/models/load"],
        Some(&models::BODY),
        "Load a model",
        Some("ModelStatus"),
        || models::named("load").post(models::load),
    )),
    shadow(route(
        &["/v1/models/activate", "/models/activate"],
        Some(&models::BODY),
        "Load a model and let it serve requests that name none",
        Some("ModelStatus"),
        || models::named("activate").post(models::activate),
    )),
    shadow(route(
        &["/v1/models/unload", "/models/unload"],
        Some(&models::BODY),
        "Unload a model",
        Some("ModelStatus"),
        || models::named("unload").post(models::unload),
    )),
    shadow(stream(route(
        &["/v1/models/pull"],
        Some(&models::BODY),
        "Download a model; events say how far it is",
        None,
        || models::named("pull").post(catalog::pull),
    ))),
    route(
        &["/v1/catalog"],
        None,
        "List the models that can be downloaded",
        Some("ModelList"),
        || get(catalog::list),
    ),
    route(&["/tokenize"], Some(&native::TOKENIZE), "Text to tokens", Some("Tokens"), || {
        post(native::tokenize)
    }),
    route(&["/detokenize"], Some(&native::DETOKENIZE), "Tokens to text", Some("Content"), || {
        post(native::detokenize)
    }),
    route(
        &["/apply-template"],
        Some(&native::APPLY_TEMPLATE),
        "A conversation as the model reads it",
        Some("Prompt"),
        || post(native::apply_template),
    ),
    route(
        &["/health"],
        None,
        "Whether the server takes requests; needs no key",
        Some("Health"),
        || get(native::health),
    ),
    route(&["/metrics"], None, "Counters for Prometheus", None, || get(native::metrics)),
    route(&["/slots"], None, "Requests in work", Some("Slots"), || get(native::slots)),
    route(&["/props"], None, "What the server and its model are", Some("Properties"), || {
        get(native::props)
    }),
    route(&["/openapi.json"], None, "This document", Some("Document"), || get(document)),
];

async fn document() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi::document().to_string());
    reply::typed("application/json", TEXT.as_str())
}

async fn not_found() -> ApiError {
    let message = "there is no such route; /openapi.json lists them";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method() -> ApiError {
    let message = "this route has no such method; the header allow lists them";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// The router of a server.
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        for path in route.paths {
            router = router.route(path, (route.handler)());
        }
    }
    let router = router
        .route("/", get(ui::page))
        .route("/icon.svg", get(ui::icon))
        .route("/licenses.txt", get(ui::licences))
        .route("/assets/{*name}", get(ui::asset))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), layers::around))
        .with_state(Arc::clone(app));
    match cors(&app.options.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok())),
    };
    Some(
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
            .expose_headers([header::HeaderName::from_static("x-request-id"), header::RETRY_AFTER]),
    )
}
