//! Routes by llama.cpp's names: tokens, templates, health, slots, properties; and the metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Map, Value, json};
use zinc_engine::SamplingParams;
use zinc_token::EncodeOptions;

use super::chat;
use super::common::{ANY_OBJECT, MODEL, short};
use crate::app::{App, Phase, shutting_down};
use crate::conversation::away;
use crate::input::{Input, query_value};
use crate::models::Status;
use crate::reply;
use crate::run::Visit;
use crate::sampling::Sampling;
use crate::schema::{Field, Kind, Object, accepted, required, used};
use crate::{ApiError, KnownModel};

/// The body of `/tokenize`.
pub const TOKENIZE: Object = Object {
    name: "TokenizeRequest",
    groups: &[
        MODEL,
        &[
            required("content", Kind::Text, "The text."),
            used(
                "add_special",
                Kind::Flag,
                "With the tokens the model expects around a text; default false.",
            ),
            used(
                "parse_special",
                Kind::Flag,
                "Text of control tokens becomes those; default true.",
            ),
            used("with_pieces", Kind::Flag, "With each token's text, or bytes where it is none."),
        ],
    ],
};

/// The body of `/detokenize`.
pub const DETOKENIZE: Object = Object {
    name: "DetokenizeRequest",
    groups: &[
        MODEL,
        &[required(
            "tokens",
            Kind::List(&Kind::Int(0, u32::MAX as i64), 0, usize::MAX),
            "The tokens.",
        )],
    ],
};

/// The body of `/apply-template`.
pub const APPLY_TEMPLATE: Object = Object {
    name: "ApplyTemplateRequest",
    groups: &[MODEL, chat::CONVERSATION, &[accepted("response_format", ANY_OBJECT)]],
};

/// Text to tokens.
///
/// # Errors
/// See [`ApiError`].
pub async fn tokenize(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = TOKENIZE.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let text = body.text("content").unwrap_or_default().to_owned();
    let options = EncodeOptions {
        add_special: body.flag("add_special").unwrap_or(false),
        parse_special: body.flag("parse_special").unwrap_or(true),
    };
    let (visit, ids) = away(move || {
        let ids = visit.lease.tokenizer().encode(&text, options);
        (visit, ids)
    })
    .await?;
    if body.flag("with_pieces") != Some(true) {
        return Ok(reply::json(&json!({"tokens": ids})));
    }
    let vocab = visit.lease.tokenizer().vocab();
    let piece = |id: &u32| {
        let bytes = vocab.piece(*id);
        let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
        json!({"id": id, "piece": piece})
    };
    Ok(reply::json(&json!({"tokens": ids.iter().map(piece).collect::<Value>()})))
}

/// Tokens to text.
///
/// # Errors
/// See [`ApiError`].
pub async fn detokenize(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = DETOKENIZE.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let ids = body.counts("tokens");
    let n_vocab = visit.lease.tokenizer().vocab().n_tokens();
    if let Some(at) = ids.iter().position(|id| *id as usize >= n_vocab) {
        let what = format!("{} is no token; the model's ids are below {n_vocab}", ids[at]);
        return Err(ApiError::field(format!("tokens[{at}]"), what));
    }
    let text = visit.lease.tokenizer().decode(&ids, false);
    Ok(reply::json(&json!({"content": text})))
}

/// A conversation as the model reads it.
///
/// # Errors
/// See [`ApiError`].
pub async fn apply_template(
    State(app): State<Arc<App>>,
    input: Input,
) -> Result<Response, ApiError> {
    let body = APPLY_TEMPLATE.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let sampling = Sampling::read(&body, &visit.lease.known().defaults)?;
    let ask = chat::conversation(&body, sampling)?;
    let prompt = away(move || ask.prompt(&visit.lease).map(|(prompt, _)| prompt)).await??;
    Ok(reply::json(&json!({"prompt": prompt.text})))
}

/// Whether the server takes requests. Says nothing else, because it needs no key.
///
/// # Errors
/// 503 while the first model loads, when a device failed, and while the server ends.
pub async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.phase() != Phase::Serving {
        return Err(shutting_down());
    }
    let list = app.registry.list();
    let is = |wanted: &Status| list.iter().any(|(_, status)| status == wanted);
    if is(&Status::Lost) {
        return Err(ApiError::unavailable("device_lost", "a device failed", 30));
    }
    if is(&Status::Loading) && !is(&Status::Loaded) {
        return Err(ApiError::unavailable("loading", "the model is loading", 1));
    }
    Ok(reply::json(&json!({"status": "ok"})))
}

/// Counters and gauges for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.render(&app.registry.gauges());
    reply::typed("text/plain; version=0.0.4; charset=utf-8", text)
}

/// The requests in work, of all loaded models.
///
/// # Errors
/// See [`ApiError`].
pub async fn slots(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut slots = Vec::new();
    for (known, _) in app.registry.list() {
        let Some(instance) = app.registry.instance(&known.id) else { continue };
        // A model that is unloaded at this moment has none.
        for slot in instance.slots().await.unwrap_or_default() {
            let mut slot = json!(slot);
            slot["model"] = json!(known.id);
            slots.push(slot);
        }
    }
    Ok(reply::json(&Value::Array(slots)))
}

/// What the server's active model is and does.
///
/// # Errors
/// See [`ApiError`].
pub async fn props(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    let list = app.registry.list();
    let name = query_value(&uri, "model")?.filter(|name| !name.is_empty());
    let (known, status) = app.registry.named(name.as_deref())?;
    let mut props = json!({
        "model_alias": known.id,
        "model_path": path_of(&known),
        "status": status.name(),
        "build_info": super::common::FINGERPRINT,
        "modalities": {"vision": false, "audio": false},
        "models": list.iter().map(|(known, _)| &known.id).collect::<Vec<_>>(),
    });
    if let Some(instance) = app.registry.instance(&known.id) {
        let vocab = instance.tokenizer().vocab();
        let text =
            |id: Option<u32>| id.map(|id| String::from_utf8_lossy(vocab.piece(id)).into_owned());
        let (device, memory) = instance.device();
        let more = json!({
            "default_generation_settings": {
                "n_ctx": instance.n_ctx(),
                "params": params(&known.defaults.sampling()),
            },
            "total_slots": instance.options().max_seqs,
            "chat_template": instance.model().chat_template().ok().flatten(),
            "bos_token": text(vocab.roles().bos),
            "eos_token": text(vocab.roles().eos),
            "device": device,
            "memory": memory,
        });
        if let (Value::Object(props), Value::Object(more)) = (&mut props, more) {
            props.extend(more);
        }
    }
    Ok(reply::json(&props))
}

/// Where a model's file is.
pub fn path_of(known: &KnownModel) -> String {
    known.path.as_ref().map_or_else(|| "built in".into(), |path| path.display().to_string())
}

fn params(params: &SamplingParams) -> Map<String, Value> {
    let fields: [(&str, f32); 7] = [
        ("temperature", params.temperature),
        ("top_p", params.top_p),
        ("min_p", params.min_p),
        ("typical_p", params.typical_p),
        ("repetition_penalty", params.repetition_penalty),
        ("presence_penalty", params.presence_penalty),
        ("frequency_penalty", params.frequency_penalty),
    ];
    let mut map: Map<String, Value> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), short(*value))).collect();
    map.insert("top_k".into(), json!(params.top_k));
    map
}

/// The body of the routes that load and unload.
pub const MODEL_NAME: &[Field] = &[required("model", Kind::Text, "The model.")];
