//! Objects, lists and events in protobuf, with their envelopes.

use bytes::Bytes;
use json_text::SyntaxError;
use json_tree::Value;

use super::MAGIC;
use super::messages::{Messages, ValueKind};
use super::transcode::Transcoder;
use object_model::protobuf::{Writer, bytes_size};

/// The tags of fields of bytes by number.
const FIRST: u32 = ValueKind::Text.tag(1);
const SECOND: u32 = ValueKind::Text.tag(2);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// The kind has no protobuf message.
    #[error("a kind without a protobuf form: {0}")]
    Kind(String),
    #[error("decode a stored object: {0}")]
    Syntax(#[from] SyntaxError),
}

/// Whether objects of the kind have a protobuf form.
pub(crate) fn has_message(api_version: &str, kind: &str) -> bool {
    Messages::published().of_kind(api_version, kind).is_some()
}

/// An object with its envelope; `None` for a kind without a protobuf form.
pub(crate) fn object(object: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let json = object.to_string();
    encode(text("apiVersion"), text("kind"), json.as_bytes()).ok()
}

/// An object with its envelope, from its JSON text. Fields that are not in the message of the kind are skipped.
///
/// *Errors.* The kind has no protobuf form, or the text is not JSON.
pub(crate) fn encode(api_version: &str, kind: &str, json: &[u8]) -> Result<Vec<u8>, WriteError> {
    let messages = Messages::published();
    let message = of_kind(api_version, kind)?;
    let mut transcoder = Transcoder::new(messages);
    let length = transcoder.read(message, json)?;
    let mut out = envelope(api_version, kind, length, length);
    transcoder.write(message, &mut out);
    close(&mut out);
    Ok(out.0)
}

/// A list that is being written. Its objects have no envelopes.
pub(crate) struct List<'t> {
    api_version: &'t str,
    list_kind: &'t str,
    message: usize,
    transcoder: Transcoder<'t>,
    /// The encoded objects in parts, and their size.
    parts: Vec<Bytes>,
    size: usize,
    out: Writer,
}

/// The approximate size of a part of a list.
const PART_BYTES: usize = 256 * 1024;

impl<'t> List<'t> {
    /// *Errors.* The kind has no protobuf form.
    pub(crate) fn new(api_version: &'t str, list_kind: &'t str) -> Result<Self, WriteError> {
        let kind = list_kind.strip_suffix("List").unwrap_or(list_kind);
        Ok(Self {
            api_version,
            list_kind,
            message: of_kind(api_version, kind)?,
            transcoder: Transcoder::of_list(Messages::published()),
            parts: Vec::new(),
            size: 0,
            out: Writer::default(),
        })
    }

    /// Adds an object from its JSON text.
    ///
    /// *Errors.* The text is not JSON.
    pub(crate) fn push(&mut self, json: &'t [u8]) -> Result<(), WriteError> {
        let length = self.transcoder.read(self.message, json)?;
        let size = bytes_size(SECOND, length);
        let free = self.out.0.capacity() - self.out.0.len();
        if free < size {
            self.cut();
            self.out.0.reserve(size.max(PART_BYTES));
        }
        self.out.head(SECOND, length);
        self.transcoder.write(self.message, &mut self.out);
        Ok(())
    }

    /// Finishes the present part.
    fn cut(&mut self) {
        let part = std::mem::take(&mut self.out.0);
        self.size += part.len();
        self.parts.push(part.into());
    }

    /// The list with its metadata and its envelope, in parts.
    ///
    /// *Errors.* A message is missing in the table.
    pub(crate) fn finish(mut self, meta: &Value) -> Result<Vec<Bytes>, WriteError> {
        self.cut();
        let messages = Messages::published();
        let name = "meta/v1.ListMeta";
        let message = messages.index(name);
        let message = message.ok_or_else(|| WriteError::Kind(name.to_owned()))?;
        let meta = meta.to_string();
        let mut transcoder = Transcoder::new(messages);
        let length = transcoder.read(message, meta.as_bytes())?;
        let size = bytes_size(FIRST, length);
        let mut head = envelope(self.api_version, self.list_kind, size + self.size, size);
        head.head(FIRST, length);
        transcoder.write(message, &mut head);
        let mut tail = Writer::default();
        close(&mut tail);
        let mut parts = vec![head.0.into()];
        parts.append(&mut self.parts);
        parts.push(tail.0.into());
        Ok(parts)
    }
}

/// One event of a watch: its length in four bytes, its type, the object with its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let raw = bytes_size(FIRST, object.len());
    let size = bytes_size(FIRST, kind.len()) + bytes_size(SECOND, raw);
    let length = u32::try_from(size).unwrap_or(u32::MAX);
    let mut event = Writer(Vec::with_capacity(size + 4));
    event.0.extend_from_slice(&length.to_be_bytes());
    event.bytes(FIRST, kind.as_bytes());
    event.head(SECOND, raw);
    event.bytes(FIRST, object);
    event.0
}

fn of_kind(api_version: &str, kind: &str) -> Result<usize, WriteError> {
    let message = Messages::published().of_kind(api_version, kind);
    message.ok_or_else(|| WriteError::Kind(format!("{api_version} {kind}")))
}

/// Starts the envelope of an object of this length, with capacity for `next` more bytes.
fn envelope(api_version: &str, kind: &str, length: usize, next: usize) -> Writer {
    let type_meta = bytes_size(FIRST, api_version.len()) + bytes_size(SECOND, kind.len());
    let size = MAGIC.len() + bytes_size(FIRST, type_meta) + bytes_size(SECOND, 0);
    let mut unknown = Writer(Vec::with_capacity(size + next + 16));
    unknown.0.extend_from_slice(MAGIC);
    unknown.head(FIRST, type_meta);
    unknown.bytes(FIRST, api_version.as_bytes());
    unknown.bytes(SECOND, kind.as_bytes());
    unknown.head(SECOND, length);
    unknown
}

/// Finishes the envelope. The encoding and the content type of the object stay empty.
fn close(unknown: &mut Writer) {
    unknown.bytes(ValueKind::Text.tag(3), b"");
    unknown.bytes(ValueKind::Text.tag(4), b"");
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use json_tree::{Map, json};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use resource_kinds::api_types::{ApiTypes, Shape, Structure, ValueType};

    /// A random object of the message type. Fields that are not pointers have no zero values.
    fn some(
        types: &ApiTypes,
        structure: &Structure,
        choices: &mut StdRng,
        depth: u32,
    ) -> Map<String, Value> {
        let mut object = Map::new();
        for field in &structure.fields {
            let inner = types.of_value(field.value);
            if let Some(embedded) = inner.filter(|_| field.json.is_empty()) {
                object.extend(some(types, embedded, choices, depth + 1));
                continue;
            }
            if choices.random_range(0..4) == 0 || (depth > 4 && inner.is_some()) {
                continue;
            }
            let element = |choices: &mut StdRng| value(types, field.value, choices, depth);
            let value = match field.shape {
                Shape::One => element(choices),
                Shape::List => (0..=choices.random_range(0..2))
                    .map(|_| element(choices))
                    .collect(),
                Shape::Map => (0..=choices.random_range(0..2))
                    .map(|key| (format!("k{key}"), element(choices)))
                    .collect::<Map<_, _>>()
                    .into(),
            };
            object.insert(field.json.to_owned(), value);
        }
        object
    }

    fn value(types: &ApiTypes, kind: ValueType, choices: &mut StdRng, depth: u32) -> Value {
        let number: u64 = choices.random_range(0..1 << 31) + 1;
        match kind {
            ValueType::String => json!(format!("t{number}")),
            ValueType::Bytes => json!(STANDARD.encode(number.to_be_bytes())),
            ValueType::Int32 | ValueType::Int64 => json!(-i64::try_from(number).unwrap()),
            ValueType::Bool => json!(true),
            ValueType::Double => json!(number as f64 / 4.0),
            ValueType::Time => json!(format!("{:04}-02-03T04:05:06Z", 1970 + number % 100)),
            ValueType::MicroTime => {
                json!(format!("2024-02-03T04:05:06.{:06}Z", number % 1_000_000))
            }
            ValueType::Duration => json!(format!("{}.25s", 1 + number % 59)),
            ValueType::Quantity => json!(format!("{number}Mi")),
            ValueType::Items => json!(["a", format!("{number}")]),
            ValueType::IntOrString if number.is_multiple_of(2) => json!(number),
            ValueType::IntOrString => json!(format!("{}%", number % 100)),
            ValueType::Raw => json!({"f": {"n": number}}),
            ValueType::Structure(_) => {
                let structure = types.of_value(kind).unwrap();
                Value::Object(some(types, structure, choices, depth + 1))
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seed in 1u64..) {
            let mut choices = StdRng::seed_from_u64(seed);
            for (version, kind) in [
                ("v1", "Pod"), ("v1", "Secret"), ("v1", "Service"), ("v1", "Node"), ("v1", "Event"),
                ("v1", "Status"), ("apps/v1", "StatefulSet"), ("apps/v1", "ControllerRevision"),
                ("policy/v1", "PodDisruptionBudget"), ("node.k8s.io/v1", "RuntimeClass"),
                ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
                ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
                ("coordination.k8s.io/v1", "Lease"),
                ("rbac.authorization.k8s.io/v1", "ClusterRole"),
                ("authentication.k8s.io/v1", "TokenReview"),
                ("metrics.k8s.io/v1beta1", "NodeMetrics"), ("metrics.k8s.io/v1beta1", "PodMetrics"),
            ] {
                let types = ApiTypes::published();
                let structure = types.of_kind(version, kind).unwrap();
                let mut sent = some(types, structure, &mut choices, 0);
                sent.insert("apiVersion".to_owned(), version.into());
                sent.insert("kind".to_owned(), kind.into());
                let sent = Value::Object(sent);
                let bytes = object(&sent).unwrap();
                prop_assert_eq!(read(&bytes).unwrap().value, sent);
            }
        }
    }

    /// A value in which each part comes from either of the two values.
    fn mixed(one: &Value, other: &Value, choices: &mut StdRng) -> Value {
        match (one, other) {
            (Value::Object(one), Value::Object(other)) => {
                let names = one.keys().filter(|_| choices.random_range(0..20) > 0);
                let names: Vec<&String> = names.collect();
                let both = names.into_iter().map(|name| {
                    let value = mixed(&one[name], other.get(name).unwrap_or(&one[name]), choices);
                    (name.clone(), value)
                });
                both.collect::<Map<_, _>>().into()
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                let pairs = one.iter().zip(other);
                pairs
                    .map(|(one, other)| mixed(one, other, choices))
                    .collect()
            }
            _ if choices.random_range(0..8) == 0 => other.clone(),
            _ => one.clone(),
        }
    }

    /// The content of each occurrence of the field with this number in a message.
    fn contents(message: &[u8], number: u32) -> Vec<Vec<u8>> {
        let mut contents = Vec::new();
        let fields = object_model::protobuf::fields(message, |field, wire| {
            if field == number {
                contents.push(wire.bytes()?.to_vec());
            }
            Ok(())
        });
        fields.unwrap();
        contents
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn objects_of_a_list_are_written_as_alone(seed in 1u64..) {
            let mut choices = StdRng::seed_from_u64(seed);
            let types = ApiTypes::published();
            let structure = types.of_kind("v1", "Pod").unwrap();
            let two = [0, 1].map(|_| Value::Object(some(types, structure, &mut choices, 0)));
            let texts: Vec<String> = (0..40)
                .map(|_| mixed(&two[0], &two[1], &mut choices).to_string())
                .collect();
            let mut list = List::new("v1", "PodList").unwrap();
            for text in &texts {
                list.push(text.as_bytes()).unwrap();
            }
            let list = list.finish(&json!({})).unwrap().concat();
            let content = |bytes: &[u8]| contents(bytes.strip_prefix(MAGIC).unwrap(), 2).remove(0);
            let items = contents(&content(&list), 2);
            prop_assert_eq!(items.len(), texts.len());
            for (item, text) in items.iter().zip(&texts) {
                let alone = encode("v1", "Pod", text.as_bytes()).unwrap();
                prop_assert_eq!(item, &content(&alone), "{}", text);
            }
        }
    }

    #[test]
    fn events_have_their_length_in_front() {
        // kubectl.md 0.11
        let bytes = event("ADDED", b"x");
        assert_eq!(bytes, b"\0\0\0\x0c\x0a\x05ADDED\x12\x03\x0a\x01x");
        assert!(object(&json!({"apiVersion": "example.com/v1", "kind": "Own"})).is_none());
        assert!(has_message("v1", "Pod") && !has_message("example.com/v1", "Own"));
    }

    fn pod(json: &str) -> Result<Vec<u8>, WriteError> {
        let bytes = encode("v1", "Pod", json.as_bytes())?;
        let content = bytes.strip_prefix(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12");
        Ok(content.unwrap().to_vec())
    }

    #[test]
    fn fields_are_in_the_order_of_their_numbers() {
        // The field `labels` has number 11, `name` has number 1. The source of a volume is an embedded message. The
        // other values have a kind that their field does not accept.
        let object = pod(
            r#"{"spec": {"volumes": [{"emptyDir": {}, "name": "v"}], "hostNetwork": 1, "boat": [{}]},
                "metadata": {"labels": {"k": "\u00e9\\"}, "finalizers": null, "name": "p"}}"#,
        );
        let metadata = b"\x0a\x0d\x0a\x01p\x5a\x08\x0a\x01k\x12\x03\xc3\xa9\\";
        let spec = b"\x12\x0b\x0a\x07\x0a\x01v\x12\x02\x12\x00\x58\x00";
        let end = b"\x1a\x00\x22\x00";
        let length = [u8::try_from(metadata.len() + spec.len()).unwrap()];
        assert_eq!(object.unwrap(), [&length[..], metadata, spec, end].concat());
    }

    #[test]
    fn a_text_that_is_cut_is_refused() {
        let whole = json!({
            "metadata": {"name": "p", "managedFields": [{"fieldsV1": {"f:a": ["]", {"}": 1}]}}]},
            "spec": {"containers": [{"name": "\"\\", "ports": [{"containerPort": 80}]}]},
        });
        let whole = whole.to_string();
        assert!(pod(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(pod(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        let unknown = encode("example.com/v1", "Own", b"{}");
        assert!(matches!(unknown, Err(WriteError::Kind(_))));
    }

    #[test]
    fn times_in_the_usual_form_are_as_the_parser_has_them() {
        for text in [
            "2026-11-22T02:10:13Z",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-02-29T12:00:60Z",
            "2023-02-29T12:00:00Z",
            "2026-11-22T02:10:13+",
            "2026-11-22 02:10:13Z",
            "2026-11-22T02:10:13.5Z",
        ] {
            let spec = |time: &str| json!({"metadata": {"creationTimestamp": time}}).to_string();
            let other = match text.parse::<jiff::Timestamp>() {
                Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
                Err(_) => "none".to_owned(),
            };
            assert_eq!(pod(&spec(text)), pod(&spec(&other)), "{text}");
        }
    }
}
