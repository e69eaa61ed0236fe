//! `/v1/models`: listing, loading, unloading.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::native::{MODEL_NAME, path_of};
use crate::app::App;
use crate::conversation::away;
use crate::input::Input;
use crate::models::Status;
use crate::schema::Object;
use crate::{ApiError, KnownModel, reply};

/// The body of the routes that load and unload.
pub const BODY: Object = Object { name: "ModelRequest", groups: &[MODEL_NAME] };

/// All models, in a form that OpenAI's, Anthropic's and llama.cpp's clients read.
///
/// # Errors
/// See [`ApiError`].
pub async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let list = app.registry.list();
    let mut data: Vec<_> = list.iter().map(|(known, status)| entry(&app, known, status)).collect();
    if let Some(source) = app.options.source.clone() {
        let fits =
            away(move || list.iter().map(|(known, _)| source.fit(known)).collect::<Vec<_>>());
        for (entry, fit) in data.iter_mut().zip(fits.await?) {
            if let Some(fit) = fit {
                entry["fit"] = fit.to_json();
            }
        }
    }
    let id = |at: Option<&Value>| at.map_or(Value::Null, |entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Ok(reply::json(&json!({
        "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false,
    })))
}

/// One model.
///
/// # Errors
/// 404 if there is no such model.
pub async fn show(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::field("id", "the path is no text"))?;
    let list = app.registry.list();
    match list.iter().find(|(known, _)| known.is_called(&id)) {
        Some((known, status)) => Ok(reply::json(&entry(&app, known, status))),
        None => {
            let message = format!("there is no model called {id:?}");
            Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
        }
    }
}

/// A model called `load`, whose page the route of that name would hide.
///
/// # Errors
/// See [`show`].
pub async fn show_load(app: State<Arc<App>>) -> Result<Response, ApiError> {
    show(app, Ok(Path("load".into()))).await
}

/// A model called `unload`; see [`show_load`].
///
/// # Errors
/// See [`show`].
pub async fn show_unload(app: State<Arc<App>>) -> Result<Response, ApiError> {
    show(app, Ok(Path("unload".into()))).await
}

fn entry(app: &App, known: &KnownModel, status: &Status) -> Value {
    let mut entry = json!({
        "id": known.id,
        "object": "model",
        "created": 0,
        "owned_by": "zinc",
        "type": "model",
        "display_name": known.id,
        "created_at": "1970-01-01T00:00:00Z",
        "aliases": known.aliases,
        "path": path_of(known),
        "status": {"value": status.name()},
    });
    if let Status::Failed(why) = status {
        entry["status"]["failed"] = json!(true);
        entry["status"]["message"] = json!(why);
    }
    if let Some(instance) = app.registry.instance(&known.id) {
        let config = instance.model().config();
        entry["meta"] = json!({
            "n_ctx": instance.n_ctx(),
            "n_ctx_train": config.n_ctx_train,
            "n_vocab": config.n_vocab,
            "n_embd": config.d_model,
        });
    }
    entry
}

/// Loads a model; others give way if there is no room. Returns when it is ready.
///
/// # Errors
/// There is no such model, or it cannot be loaded.
pub async fn load(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let _ticket = app.admit()?;
    let lease = app.registry.acquire(body.text("model")).await?;
    let id = lease.known().id.clone();
    Ok(reply::json(&json!({"success": true, "model": id, "status": {"value": "loaded"}})))
}

/// Unloads a model when its running answers are done. Returns when its memory is free.
///
/// # Errors
/// There is no such model.
pub async fn unload(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let _ticket = app.admit()?;
    let name = body.text("model").unwrap_or_default();
    app.registry.unload(name).await?;
    Ok(reply::json(&json!({"success": true, "model": name, "status": {"value": "unloaded"}})))
}
