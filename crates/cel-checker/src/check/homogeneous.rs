//! Literals with parts of different types (as cel-go, `cel/validator.go`).

use std::collections::BTreeMap;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};

use super::children::children;
use super::{CheckError, CheckErrorKind, Position, position};
use crate::types::Type;

/// The function whose arguments may be literals with different types.
const FORMAT: &str = "format";

/// The errors of all lists and maps with parts of different types.
pub(super) fn errors(
    expression: &IdedExpr,
    source: &SourceInfo,
    types: &BTreeMap<u64, Type>,
) -> Vec<CheckError> {
    let mut visitor = Visitor {
        source,
        types,
        errors: Vec::new(),
    };
    visitor.visit(expression);
    visitor.errors
}

struct Visitor<'v> {
    source: &'v SourceInfo,
    types: &'v BTreeMap<u64, Type>,
    errors: Vec<CheckError>,
}

impl Visitor<'_> {
    fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Call(call) if call.func_name == FORMAT => return,
            Expr::List(list) => {
                let mut first = None;
                for (index, part) in list.elements.iter().enumerate() {
                    let is_optional = list.optional_indices.contains(&index);
                    if !self.agrees(part, is_optional, &mut first) {
                        break;
                    }
                }
            }
            Expr::Map(map) => {
                let (mut key, mut value) = (None, None);
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.agrees(&entry.key, false, &mut key);
                        self.agrees(&entry.value, entry.optional, &mut value);
                    }
                }
            }
            _ => {}
        }
        for part in children(expression) {
            self.visit(part);
        }
    }

    /// Whether a part has the type of the first part.
    fn agrees(&mut self, part: &IdedExpr, is_optional: bool, first: &mut Option<Type>) -> bool {
        let of = self.types.get(&part.id).cloned().unwrap_or(Type::Dyn);
        let of = match of.optional_value() {
            Some(value) if is_optional => value.clone(),
            _ => of,
        };
        let first = first.get_or_insert_with(|| of.clone());
        if *first == of {
            return true;
        }
        let offset = position::of_expression(part, self.source);
        self.errors.push(CheckError {
            id: part.id,
            position: Position::at_offset(&self.source.source, offset),
            kind: CheckErrorKind::mismatch(first, &of),
        });
        false
    }
}
