//! Paths to fields of a schema: `.spec.parts['a b'].size`. The texts are those of `ValidFieldPath` in
//! k8s.io/apiextensions-apiserver.

use std::fmt::Write as _;

use crate::schema_node::{Additional, Node};

/// A field that a path leads to.
pub(crate) struct SchemaTarget<'s> {
    /// The path in the form of field paths, for instance `spec.parts[a b].size`.
    pub(crate) path: String,
    /// The first name of the path.
    pub(crate) root: String,
    pub(crate) schema: Node<'s>,
}

/// Whether names in brackets are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brackets {
    Allowed,
    Refused,
}

const NO_FIELD: &str = "does not refer to a valid field";
const EARLY_END: &str = "unexpected end of JSON path";

/// The field at a path.
///
/// # Errors
/// The reason why the path leads to no field.
pub(crate) fn resolve<'s>(
    text: &str,
    schema: Node<'s>,
    brackets: Brackets,
) -> Result<SchemaTarget<'s>, String> {
    let mut target = SchemaTarget {
        path: String::new(),
        root: String::new(),
        schema,
    };
    let mut rest = text;
    while let Some(token) = next_token(&mut rest) {
        match token {
            "[" if brackets == Brackets::Refused => {
                return Err("array notation is not allowed".to_owned());
            }
            "[" => {
                let name = next_token(&mut rest).ok_or(EARLY_END)?;
                let quoted = name.strip_prefix('\'');
                let quoted = quoted.and_then(|name| name.strip_suffix('\''));
                let quoted = quoted
                    .ok_or_else(|| format!("expected single quoted string but got {name}"))?;
                target.enter(&unescaped(quoted)?)?;
                let end = next_token(&mut rest).ok_or(EARLY_END)?;
                if end != "]" {
                    return Err(format!("expected ] but got {end}"));
                }
            }
            "." => {
                let name = next_token(&mut rest).ok_or(EARLY_END)?;
                target.enter(name)?;
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(target)
}

impl SchemaTarget<'_> {
    fn enter(&mut self, name: &str) -> Result<(), String> {
        let is_named = self.schema.has_properties();
        let below = match self.schema.additional() {
            _ if is_named => self.schema.property(name),
            Some(Additional::Schema(below)) => Some(below),
            Some(Additional::Bool(_)) | None => None,
        };
        self.schema = below.ok_or(NO_FIELD)?;
        if self.root.is_empty() {
            name.clone_into(&mut self.root);
        }
        // Writing to a text never fails.
        let _ = match (is_named, self.path.is_empty()) {
            (false, _) => write!(self.path, "[{name}]"),
            (true, true) => write!(self.path, "{name}"),
            (true, false) => write!(self.path, ".{name}"),
        };
        Ok(())
    }
}

/// Removes the next token: a dot, a bracket, a text in single quotes, or the text up to one of them.
fn next_token<'t>(rest: &mut &'t str) -> Option<&'t str> {
    let text = *rest;
    let first = text.chars().next()?;
    let end = if matches!(first, '.' | '[' | ']') {
        1
    } else if first == '\'' {
        let mut previous = first;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let is_end = *c == '\'' && previous != '\\';
            previous = *c;
            is_end
        });
        end.map_or(text.len(), |(index, _)| index + 1)
    } else {
        text.find(['.', '[', ']']).unwrap_or(text.len())
    };
    let (token, after) = text.split_at_checked(end)?;
    *rest = after;
    Some(token)
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(c @ ('\'' | '\\')) => c,
            Some(c) => return Err(format!("invalid string literal: invalid escape char \\{c}")),
            None => '\\',
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// As upstream's table of field paths.
    #[test]
    fn paths_lead_to_the_fields_of_a_schema() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "c": {"type": "string"}, "a-b34": {"type": "integer"}, "34": {"type": "string"}}}},
            "foo": {"type": "object", "properties": {"f1": {"type": "string"}, "f'2": {"type": "string"}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "any": {"type": "object", "additionalProperties": true}}});
        let schema = Node::new(&schema).unwrap();
        let found = |text: &str, brackets| {
            resolve(text, schema, brackets).map(|target| {
                format!(
                    "{}|{}|{}",
                    target.root,
                    target.path,
                    target.schema.text("type")
                )
            })
        };
        for (text, expected) in [
            (".a", Ok("a|a|object")),
            (".a.b", Ok("a|a[b]|object")),
            (".foo.f1", Ok("foo|foo.f1|string")),
            (".a['bbb.c']", Ok("a|a[bbb.c]|object")),
            (".a['bbb.c'].a-b34", Ok("a|a[bbb.c].a-b34|integer")),
            (".a['bbb.c']['a-b34']", Ok("a|a[bbb.c].a-b34|integer")),
            (".a.bbb.c", Ok("a|a[bbb].c|string")),
            (".a.bbb.34", Ok("a|a[bbb].34|string")),
            (r".foo['f\'2']", Ok("foo|foo.f'2|string")),
            (".list", Ok("list|list|array")),
            (".list[1]", Err("expected single quoted string but got 1")),
            (".list.a", Err(NO_FIELD)),
            (".list['a']", Err(NO_FIELD)),
            ("a.b", Err("expected [ or . but got: a")),
            (".none", Err(NO_FIELD)),
            (".any.a", Err(NO_FIELD)),
            ("..foo", Err(NO_FIELD)),
            (".foo[-1]", Err("expected single quoted string but got -1")),
            (".foo['f1'", Err(EARLY_END)),
            (".foo['f1'x", Err("expected ] but got x")),
            (".foo.", Err(EARLY_END)),
            (
                r".foo['\y']",
                Err(r"invalid string literal: invalid escape char \y"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found(text, Brackets::Allowed), expected, "{text}");
        }
        let refused = found(".a['b']", Brackets::Refused);
        assert_eq!(refused, Err("array notation is not allowed".to_owned()));
    }
}
