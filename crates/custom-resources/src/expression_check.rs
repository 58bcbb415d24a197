//! The types of expressions that are not rules of a definition: of admission policies and match conditions.

use std::collections::{BTreeMap, BTreeSet};

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel_checker::{Declarations, Type};

use crate::expression::parse;
use crate::expression_error::ExpressionError;
use crate::rule_types;

/// The type of an operation of a JSON patch.
const PATCH: &str = "JSONPatch";
/// The type of a whole object that an expression constructs.
const OBJECT: &str = "Object";

/// The type of the result of an expression.
///
/// # Errors
/// A syntax error, an exceeded limit, or the errors of the types with their positions.
pub fn result_type(source: &str, declarations: &Declarations) -> Result<Type, ExpressionError> {
    rule_types::result_type(&parse(source)?, declarations)
}

/// The type of the result of an expression that may construct objects and patches.
///
/// # Errors
/// As of [`result_type`].
pub fn constructed_type(
    source: &str,
    declarations: &Declarations,
) -> Result<Type, ExpressionError> {
    let program = parse(source)?;
    let mut fields = Fields::new();
    collect(program.expression(), &mut fields);
    let text = |name: &str| (name.to_owned(), Type::String);
    let patch = [
        text("op"),
        text("path"),
        text("from"),
        ("value".to_owned(), Type::Dyn),
    ];
    let mut declarations = declarations
        .clone()
        .with_type(PATCH, Type::object(PATCH, patch));
    // As upstream, each name of a part of an object is a type, and its fields have any type.
    for (name, fields) in fields {
        if name == OBJECT || name.starts_with("Object.") {
            let fields = fields.into_iter().map(|field| (field, Type::Dyn));
            let object = Type::object(&name, fields);
            declarations = declarations.with_type(&name, object);
        }
    }
    rule_types::result_type(&program, &declarations)
}

/// The fields of the objects that an expression constructs, by the names of their types.
type Fields = BTreeMap<String, BTreeSet<String>>;

fn collect(expression: &IdedExpr, fields: &mut Fields) {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Select(select) => collect(&select.operand, fields),
        Expr::Call(call) => {
            let parts = call.target.as_deref().into_iter().chain(&call.args);
            parts.for_each(|part| collect(part, fields));
        }
        Expr::List(list) => list.elements.iter().for_each(|part| collect(part, fields)),
        Expr::Map(map) => map
            .entries
            .iter()
            .for_each(|entry| collect_entry(entry, fields)),
        Expr::Struct(literal) => {
            let names = literal
                .entries
                .iter()
                .filter_map(|entry| match &entry.expr {
                    EntryExpr::StructField(field) => Some(field.field.clone()),
                    EntryExpr::MapEntry(_) => None,
                });
            let known = fields.entry(literal.type_name.clone()).or_default();
            known.extend(names);
            literal
                .entries
                .iter()
                .for_each(|entry| collect_entry(entry, fields));
        }
        Expr::Comprehension(all) => {
            let parts = [
                &all.iter_range,
                &all.accu_init,
                &all.loop_cond,
                &all.loop_step,
                &all.result,
            ];
            parts.into_iter().for_each(|part| collect(part, fields));
        }
    }
}

fn collect_entry(entry: &IdedEntryExpr, fields: &mut Fields) {
    match &entry.expr {
        EntryExpr::StructField(field) => collect(&field.value, fields),
        EntryExpr::MapEntry(entry) => {
            collect(&entry.key, fields);
            collect(&entry.value, fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constructed(source: &str) -> Result<String, String> {
        let declarations = Declarations::kubernetes().with_variable("object", Type::Dyn);
        let result = constructed_type(source, &declarations);
        result
            .map(|of| of.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn constructed_objects_have_the_types_of_their_names() {
        let object = "Object{metadata: Object.metadata{labels: {'a': object.x}}}";
        assert_eq!(constructed(object), Ok("Object".to_owned()));
        let patch = "has(object.a) ? [JSONPatch{op: 'add', path: '/a', value: 1}] : []";
        assert_eq!(constructed(patch), Ok("list(JSONPatch)".to_owned()));
        let unknown = constructed("[1].map(i, Thing{a: i})").unwrap_err();
        assert!(
            unknown.contains("undeclared reference to 'Thing'"),
            "{unknown}"
        );
        let field = constructed("[JSONPatch{op: 'add', where: '/a'}]").unwrap_err();
        assert!(field.contains("undefined field 'where'"), "{field}");
        let value = constructed("[JSONPatch{op: 1}]").unwrap_err();
        assert!(
            value.contains("expected type of field 'op' is 'string' but provided type is 'int'"),
            "{value}"
        );
    }
}
