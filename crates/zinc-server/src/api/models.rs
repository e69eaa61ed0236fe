//! `/v1/models`: listing, loading, activating, unloading, removing.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use serde_json::{Value, json};

use super::native::{MODEL_NAME, path_of};
use crate::app::App;
use crate::conversation::away;
use crate::input::Input;
use crate::models::Status;
use crate::schema::Object;
use crate::{ApiError, KnownModel, ids, reply};

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

/// Removes a model that was pulled or imported, with its files.
///
/// # Errors
/// There is no such model, it is in use, it did not come from the catalog, or its files cannot be
/// removed.
pub async fn remove(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::field("id", "the path is no text"))?;
    let (registry, source) = (Arc::clone(&app.registry), app.options.source.clone());
    // Goes on to its end if the client leaves.
    let removed = away(move || {
        registry.remove(&id, |known| {
            let removed = source.map_or(Ok(None), |source| source.remove(known));
            match removed.map_err(ApiError::internal)? {
                Some(n_bytes) => Ok((known.id.clone(), n_bytes)),
                None => {
                    let message = format!(
                        "{} was neither pulled nor imported, so it is not for this server to remove",
                        known.id
                    );
                    Err(ApiError::bad_request("model_not_removable", message))
                }
            }
        })
    });
    let (id, freed) = removed.await??;
    Ok(reply::json(&json!({"id": id, "object": "model", "deleted": true, "freed": freed})))
}

/// What a model that is called as `word`, the last word of a route, has there: the route would hide it.
pub fn named(word: &'static str) -> MethodRouter<Arc<App>> {
    let id = move || Ok(Path(word.to_owned()));
    get(move |app: State<Arc<App>>| show(app, id()))
        .delete(move |app: State<Arc<App>>| remove(app, id()))
}

fn entry(app: &App, known: &KnownModel, status: &Status) -> Value {
    let created = created(known);
    let is_active = app.registry.active().is_some_and(|(active, _)| active.id == known.id);
    let mut entry = json!({
        "id": known.id,
        "object": "model",
        "created": created,
        "owned_by": "zinc",
        "type": "model",
        "display_name": known.id,
        "created_at": ids::rfc3339(created),
        "aliases": known.aliases,
        "path": path_of(known),
        "active": is_active,
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

/// When a model's file was written, in seconds since 1970; the program's for the one built in.
fn created(known: &KnownModel) -> u64 {
    let path = known.path.clone().or_else(|| std::env::current_exe().ok());
    let written = path.and_then(|path| path.metadata().ok()?.modified().ok());
    let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
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

/// Loads a model and makes it the one that serves requests which name none. Returns when it is ready.
///
/// # Errors
/// There is no such model, or it cannot be loaded.
pub async fn activate(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let _ticket = app.admit()?;
    let lease = app.registry.activate(body.text("model")).await?;
    let id = lease.known().id.clone();
    Ok(reply::json(&json!({
        "success": true, "model": id, "active": true, "status": {"value": "loaded"},
    })))
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
