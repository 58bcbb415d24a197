//! The text form of signatures, for example `list(A).(int) -> A`.

use std::sync::Arc;

use crate::types::Type;

/// A table of functions: the name, and the identifier and signature of each overload.
pub(super) type Table = [(&'static str, &'static [(&'static str, &'static str)])];

/// An overload of a function.
#[derive(Clone, Debug)]
pub struct Overload {
    pub id: Arc<str>,
    /// Whether the first parameter is the receiver: `receiver.function()`.
    pub is_member: bool,
    pub parameters: Vec<Type>,
    pub result: Type,
    /// The type parameters of the signature.
    pub type_parameters: Vec<Arc<str>>,
}

/// Parses a signature: `(types) -> type`, or `type.(types) -> type` for a member function.
pub(super) fn parse(id: &str, signature: &str) -> Option<Overload> {
    let (call, result) = signature.split_once(" -> ")?;
    let open = call.match_indices('(').map(|(at, _)| at).find(|at| {
        // The parentheses of the parameters are at the start or after a dot.
        *at == 0 || call[..*at].ends_with('.')
    })?;
    let receiver = call[..open].strip_suffix('.');
    let parameters = call[open..].strip_prefix('(')?.strip_suffix(')')?;
    let mut all = Vec::new();
    if let Some(receiver) = receiver {
        all.push(parse_type(receiver)?);
    }
    for parameter in split(parameters) {
        all.push(parse_type(parameter)?);
    }
    let result = parse_type(result)?;
    let mut type_parameters = Vec::new();
    for part in all.iter().chain([&result]) {
        collect_parameters(part, &mut type_parameters);
    }
    Some(Overload {
        id: Arc::from(id),
        is_member: receiver.is_some(),
        parameters: all,
        result,
        type_parameters,
    })
}

/// Parses a type, as messages show it. One capital letter is a type parameter, and an unknown name without arguments is
/// an object without visible fields.
pub fn parse_type(text: &str) -> Option<Type> {
    let text = text.trim();
    let (name, parameters) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => (name, Some(split(rest.strip_suffix(')')?))),
    };
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.all(|letter| letter.is_ascii_alphanumeric() || "._@".contains(letter))
    };
    if name.is_empty() || !is_name(name) {
        return None;
    }
    let parameters = match parameters {
        None => None,
        Some(parts) => Some(
            parts
                .into_iter()
                .map(parse_type)
                .collect::<Option<Vec<_>>>()?,
        ),
    };
    Some(match (name, parameters.as_deref()) {
        ("list", Some([element])) => Type::list(element.clone()),
        ("map", Some([key, value])) => Type::map(key.clone(), value.clone()),
        ("type", Some([of])) => Type::type_of(of.clone()),
        ("wrapper", Some([simple])) => Type::wrapper(simple.clone()),
        (_, Some(parameters)) => Type::Opaque(Arc::from(name), parameters.to_vec()),
        ("dyn", None) => Type::Dyn,
        ("null", None) => Type::Null,
        ("bool", None) => Type::Bool,
        ("int", None) => Type::Int,
        ("uint", None) => Type::Uint,
        ("double", None) => Type::Double,
        ("string", None) => Type::String,
        ("bytes", None) => Type::Bytes,
        ("duration", None) => Type::Duration,
        ("timestamp", None) => Type::Timestamp,
        ("type", None) => Type::Type(None),
        (name, None)
            if name.len() == 1 && name.starts_with(|letter: char| letter.is_ascii_uppercase()) =>
        {
            Type::parameter(name)
        }
        (name, None) => Type::sealed(name),
    })
}

/// The parts of a list between commas outside of parentheses.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !list.trim().is_empty() {
        parts.push(&list[start..]);
    }
    parts
}

fn collect_parameters(of: &Type, names: &mut Vec<Arc<str>>) {
    match of {
        Type::Parameter(name) if !names.contains(name) => names.push(name.clone()),
        other => {
            other.with_parameters(|part| {
                collect_parameters(part, names);
                part.clone()
            });
        }
    }
}
