//! Literals with parts of different types (as cel-go, `cel/validator.go`).

use std::collections::HashMap;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};

use super::{CheckError, CheckErrorKind, Position, position};
use crate::types::Type;

/// The function whose arguments may be literals with different types.
const FORMAT: &str = "format";

/// The errors of all lists and maps with parts of different types.
pub(super) fn errors(
    expression: &IdedExpr,
    source: &SourceInfo,
    types: &HashMap<u64, Type>,
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
    types: &'v HashMap<u64, Type>,
    errors: Vec<CheckError>,
}

impl Visitor<'_> {
    fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Call(call) if call.func_name == FORMAT => {}
            Expr::Call(call) => {
                let target = call.target.as_deref();
                let parts = target.into_iter().chain(&call.args);
                parts.for_each(|part| self.visit(part));
            }
            Expr::Comprehension(all) => {
                let parts = [
                    &all.iter_range,
                    &all.accu_init,
                    &all.loop_cond,
                    &all.loop_step,
                    &all.result,
                ];
                parts.into_iter().for_each(|part| self.visit(part));
            }
            Expr::List(list) => {
                let mut first = None;
                for (index, part) in list.elements.iter().enumerate() {
                    let is_optional = list.optional_indices.contains(&index);
                    if !self.agrees(part, is_optional, &mut first) {
                        break;
                    }
                }
                list.elements.iter().for_each(|part| self.visit(part));
            }
            Expr::Map(map) => {
                let (mut key, mut value) = (None, None);
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.agrees(&entry.key, false, &mut key);
                        self.agrees(&entry.value, entry.optional, &mut value);
                        self.visit(&entry.key);
                        self.visit(&entry.value);
                    }
                }
            }
            Expr::Struct(all) => {
                for entry in &all.entries {
                    if let EntryExpr::StructField(field) = &entry.expr {
                        self.visit(&field.value);
                    }
                }
            }
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
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
            position: Position::of(&self.source.source, offset),
            kind: CheckErrorKind::mismatch(first, &of),
        });
        false
    }
}
