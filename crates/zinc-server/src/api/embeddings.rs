//! `/v1/embeddings` and `/v1/rerank`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use zinc_engine::Pooling;

use super::common::{ANY_OBJECT, BOOKKEEPING, MODEL};
use super::completions::{PROMPTS, encode, read_ids};
use crate::app::App;
use crate::conversation::away;
use crate::input::Input;
use crate::models::Instance;
use crate::options::ModelDefaults;
use crate::run::{Order, Totals, Visit};
use crate::sampling::Sampling;
use crate::schema::{Body, Kind, Neutral, Object, accepted, refused, required, used};
use crate::worker::What;
use crate::{ApiError, reply};

const POOLING: Kind = Kind::Choice(&["last", "mean"]);

/// The body of `/v1/embeddings`.
pub const EMBEDDINGS: Object = Object {
    name: "EmbeddingRequest",
    groups: &[
        MODEL,
        &[
            required("input", PROMPTS, "A text or its tokens, or a list of either."),
            used("encoding_format", Kind::Choice(&["float", "base64"]), "Numbers, or their bytes."),
            used(
                "dimensions",
                Kind::Int(1, i64::MAX),
                "The model's own width: zinc cuts no vectors.",
            ),
            used("pooling", POOLING, "Which hidden states count; default is the model's."),
            refused("truncate_prompt_tokens", &[], "zinc never cuts a text"),
            refused("input_type", &[], "put an instruction into the text"),
        ],
        BOOKKEEPING,
    ],
};

const DOCUMENT: Object =
    Object { name: "Document", groups: &[&[required("text", Kind::Text, "Its text.")]] };

/// The body of `/v1/rerank`.
pub const RERANK: Object = Object {
    name: "RerankRequest",
    groups: &[
        MODEL,
        &[
            required("query", Kind::Text, "What is looked for."),
            required(
                "documents",
                Kind::List(&Kind::AnyOf(&[Kind::Text, Kind::Object(&DOCUMENT)]), 1, 1024),
                "Where to look.",
            ),
            used("top_n", Kind::Int(1, i64::MAX), "Return so many of the best."),
            used("return_documents", Kind::Flag, "With the documents' texts."),
            used("pooling", POOLING, "Which hidden states count; default is the model's."),
            refused("max_chunks_per_doc", &[], "a document is scored whole"),
            refused("max_tokens_per_doc", &[], "zinc never cuts a text"),
            refused("rank_fields", &[Neutral::EmptyList], "a document is its text"),
            refused("truncate_prompt_tokens", &[], "zinc never cuts a text"),
            accepted("metadata", ANY_OBJECT),
        ],
    ],
};

/// Texts to vectors of length 1.
///
/// # Errors
/// See [`ApiError`].
pub async fn embeddings(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = EMBEDDINGS.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let width = visit.lease.model().config().d_model;
    if body.int("dimensions").is_some_and(|n| n != i64::from(width)) {
        let what = format!("this model's vectors have {width} values, and zinc cuts none");
        return Err(ApiError::unsupported("dimensions", what));
    }
    let pooling = pooling(&body, &visit.lease)?;
    let json = input.json.clone();
    let (visit, ids) = away(move || {
        let ids =
            EMBEDDINGS.check(&json).map(|body| read_ids(&body, "input", visit.lease.tokenizer()));
        (visit, ids)
    })
    .await?;
    let model = visit.lease.known().id.clone();
    let (vectors, total) = embed(visit, ids?, pooling, "input").await?;
    let as_base64 = body.text("encoding_format") == Some("base64");
    let data = vectors.into_iter().enumerate().map(|(index, vector)| {
        let vector = if as_base64 { json!(base64(&vector)) } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": vector})
    });
    Ok(reply::json(&json!({
        "object": "list",
        "data": data.collect::<Value>(),
        "model": model,
        "usage": usage(total),
    })))
}

/// Documents by how close they are to a query: the cosine of their embeddings.
///
/// # Errors
/// See [`ApiError`].
pub async fn rerank(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = RERANK.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let pooling = pooling(&body, &visit.lease)?;
    let text = |document: &Value| match document {
        Value::String(text) => text.clone(),
        document => document["text"].as_str().unwrap_or_default().to_owned(),
    };
    let documents: Vec<String> = body.list("documents").iter().map(text).collect();
    let query = body.text("query").unwrap_or_default().to_owned();
    let (visit, ids, documents) = away(move || {
        let tokenizer = visit.lease.tokenizer();
        let texts = std::iter::once(&query).chain(&documents);
        let ids: Vec<_> = texts.map(|text| encode(tokenizer, text)).collect();
        (visit, ids, documents)
    })
    .await?;
    let model = visit.lease.known().id.clone();
    let (vectors, total) = embed(visit, ids, pooling, "documents").await?;
    let Some((query, rest)) = vectors.split_first() else {
        return Err(ApiError::internal("there is no embedding of the query"));
    };
    let mut scores: Vec<(usize, f32)> =
        rest.iter().map(|vector| cosine(query, vector)).enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let top_n = body.int("top_n").and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let with_documents = body.flag("return_documents") == Some(true);
    let results = scores.into_iter().take(top_n).map(|(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if with_documents {
            result["document"] = json!({"text": documents[index]});
        }
        result
    });
    Ok(reply::json(&json!({
        "id": crate::ids::new("rerank-"),
        "model": model,
        "results": results.collect::<Value>(),
        "usage": usage(total),
    })))
}

fn usage(total: Totals) -> Value {
    json!({"prompt_tokens": total.n_prompt, "total_tokens": total.n_prompt})
}

/// The pooling that is asked for, or the one in the model's file, or the last token's state.
fn pooling(body: &Body<'_>, instance: &Instance) -> Result<Pooling, ApiError> {
    if !instance.options().embeddings {
        let what = "this server was started without embeddings; start it with --embeddings";
        return Err(ApiError::unsupported("model", what));
    }
    match body.text("pooling") {
        Some("mean") => return Ok(Pooling::Mean),
        Some(_) => return Ok(Pooling::Last),
        None => {}
    }
    let model = instance.model();
    let key = format!("{}.pooling_type", model.config().arch);
    // llama.cpp's numbers: 1 is the mean, 3 the last token.
    match model.gguf().metadata().u64(&key) {
        Ok(Some(1)) => Ok(Pooling::Mean),
        Ok(None | Some(0 | 3)) => Ok(Pooling::Last),
        _ => {
            let what =
                "the model's file asks for a pooling that zinc has not; name one: last or mean";
            Err(ApiError::unsupported("pooling", what))
        }
    }
}

/// `field` is where the prompts come from, for errors.
async fn embed(
    visit: Visit,
    prompts: Vec<Vec<u32>>,
    pooling: Pooling,
    field: &str,
) -> Result<(Vec<Vec<f32>>, Totals), ApiError> {
    let mut vectors = vec![Vec::new(); prompts.len()];
    let order = |ids| Order { ids, pooling: Some(pooling), ..Order::default() };
    let sampling = Sampling::plain(&ModelDefaults::default());
    let run = visit.start(prompts.into_iter().map(order).collect(), &sampling).await;
    let mut run = run.map_err(|error| error.in_words_of(&[("prompt", field)]))?;
    while let Some(update) = run.next().await {
        let update = update?;
        if let What::Embedding(values) = update.what {
            vectors[update.choice] = values;
        }
    }
    Ok((vectors, run.total()))
}

/// Both have length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

/// Little-endian bytes of the values.
fn base64(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}
