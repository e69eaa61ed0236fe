//! The tables as JSON Schema 2020-12, for the OpenAPI document.

use serde_json::{Map, Value, json};

use super::{Field, Kind, Neutral, Object, Role, Tagged};

/// The `components.schemas` of a document: every named object once.
#[derive(Debug, Default)]
pub struct Components {
    schemas: Map<String, Value>,
}

impl Components {
    /// A reference to `object`, which is described along with all that it holds.
    pub fn reference(&mut self, object: &Object) -> Value {
        if !self.schemas.contains_key(object.name) {
            // In place before its fields are described, so that an object may hold itself.
            self.schemas.insert(object.name.into(), Value::Null);
            let schema = self.object(object, None);
            self.schemas.insert(object.name.into(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{}", object.name)})
    }

    /// Adds a schema that is written down as such.
    pub fn insert(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.into(), schema);
    }

    /// The finished map.
    pub fn into_map(self) -> Map<String, Value> {
        self.schemas
    }

    /// `tag` is the field that names the object's form, and the form.
    fn object(&mut self, object: &Object, tag: Option<(&Tagged, &str)>) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in object.fields() {
            let schema = match tag {
                Some((tagged, form)) if tagged.key == field.name => {
                    if tagged.default != Some(form) {
                        required.push(field.name);
                    }
                    json!({"const": form})
                }
                _ => self.field(field),
            };
            properties.insert(field.name.into(), schema);
            if field.role == Role::Required && !required.contains(&field.name) {
                required.push(field.name);
            }
        }
        let mut schema = json!({
            "type": "object", "properties": properties, "additionalProperties": false,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    fn field(&mut self, field: &Field) -> Value {
        if let Role::Refused(neutral) = field.role {
            let mut values: Vec<Value> = neutral.iter().map(Neutral::value).collect();
            values.push(Value::Null);
            let description = format!("Not supported: {}", field.doc);
            return json!({"enum": values, "description": description});
        }
        let mut schema = self.kind(&field.kind);
        if field.role != Role::Required && field.kind != Kind::Any {
            schema = json!({"anyOf": [schema, {"type": "null"}]});
        }
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".into(), field.doc.into());
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match *kind {
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Int(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
            Kind::Number(min, max) => json!({"type": "number", "minimum": min, "maximum": max}),
            Kind::Text => json!({"type": "string"}),
            Kind::Choice(choices) => json!({"enum": choices}),
            Kind::List(item, min, max) => {
                let mut schema =
                    json!({"type": "array", "items": self.kind(item), "minItems": min});
                if max != usize::MAX {
                    schema["maxItems"] = json!(max);
                }
                schema
            }
            Kind::Object(object) => self.reference(object),
            Kind::Map(item) => json!({"type": "object", "additionalProperties": self.kind(item)}),
            Kind::Tagged(tagged) => {
                let forms = tagged.forms.iter();
                let forms: Vec<_> =
                    forms.map(|(form, object)| self.object(object, Some((tagged, form)))).collect();
                json!({"anyOf": forms})
            }
            Kind::AnyOf(kinds) => {
                let kinds: Vec<_> = kinds.iter().map(|kind| self.kind(kind)).collect();
                json!({"anyOf": kinds})
            }
            Kind::Any => json!({}),
        }
    }
}

impl Neutral {
    fn value(&self) -> Value {
        match *self {
            Neutral::Flag(flag) => json!(flag),
            Neutral::Int(number) => json!(number),
            Neutral::Text(text) => json!(text),
            Neutral::EmptyList => json!([]),
        }
    }
}
