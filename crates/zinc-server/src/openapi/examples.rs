//! A body of each route that does what its summary says, and what responses lead to.

/// Bodies as JSON, by the first path of their route. Each works on any model; `/v1/models/pull` has none, as
/// whoever tries examples out does not mean to download anything.
pub const EXAMPLES: [(&str, &str); 12] = [
    (
        "/v1/chat/completions",
        r#"{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 100}"#,
    ),
    ("/v1/completions", r#"{"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}"#),
    ("/v1/responses", r#"{"input": "Why is the sky blue?", "max_output_tokens": 100}"#),
    (
        "/v1/messages",
        r#"{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 100}"#,
    ),
    (
        "/v1/messages/count_tokens",
        r#"{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#,
    ),
    ("/v1/embeddings", r#"{"input": ["copper", "zinc"], "encoding_format": "float"}"#),
    ("/v1/rerank", r#"{"query": "a metal", "documents": ["zinc", "fox"], "top_n": 1}"#),
    ("/v1/models/load", r#"{"model": "zinc-demo"}"#),
    ("/v1/models/unload", r#"{"model": "zinc-demo"}"#),
    ("/tokenize", r#"{"content": "Hello"}"#),
    ("/detokenize", r#"{"tokens": [1, 2, 3]}"#),
    ("/apply-template", r#"{"messages": [{"role": "user", "content": "Hello"}]}"#),
];

/// What a response is good for: the route that gives it, the name of the link, the route that takes it, and
/// what of it goes there, as a parameter of the path or as a field of the body.
pub const LINKS: [Link; 3] = [
    Link {
        from: "/v1/models",
        name: "showModel",
        to: "/v1/models/{*id}",
        field: "id",
        value: "$response.body#/data/0/id",
    },
    Link {
        from: "/tokenize",
        name: "detokenize",
        to: "/detokenize",
        field: "tokens",
        value: "$response.body#/tokens",
    },
    Link {
        from: "/apply-template",
        name: "tokenizePrompt",
        to: "/tokenize",
        field: "content",
        value: "$response.body#/prompt",
    },
];

/// One of [`LINKS`].
pub struct Link {
    /// The route whose response it is.
    pub from: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The route that it leads to.
    pub to: &'static str,
    /// The parameter or field there.
    pub field: &'static str,
    /// What of the response it is, as OpenAPI's runtime expression.
    pub value: &'static str,
}
