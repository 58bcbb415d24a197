//! Positions in the source of an expression.

use cel::common::ast::{Expr, IdedEntryExpr, IdedExpr, LiteralValue, SourceInfo};

/// A position in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// The position of a byte; an unknown one is before the first line.
    pub(crate) fn at_offset(source: &str, offset: Option<usize>) -> Self {
        let Some(before) = offset.and_then(|offset| source.get(..offset)) else {
            return Self { line: 0, column: 0 };
        };
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }
}

/// The byte that cel-go reports an expression at. The parser reports calls and object literals at their first letter,
/// and cel-go at the parenthesis or brace.
pub(super) fn of_expression(expression: &IdedExpr, source: &SourceInfo) -> Option<usize> {
    let offset = start(expression.id, source)?;
    let bracket = match &expression.expr {
        Expr::Call(call) if call.target.is_none() && !is_operator(&call.func_name) => '(',
        Expr::Select(select) if select.test => '(',
        Expr::Comprehension(_) => '(',
        Expr::Struct(_) => '{',
        Expr::Literal(literal) if is_negative(literal) => {
            let sign = source.source.get(..offset)?.trim_end().strip_suffix('-');
            return Some(sign.map_or(offset, str::len));
        }
        _ => return Some(offset),
    };
    let rest = source.source.get(offset..)?;
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_. \t\n".contains(letter);
    let name = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
    if rest[name..].starts_with(bracket) {
        return Some(offset + name);
    }
    Some(offset)
}

/// Whether a literal starts with a sign, which the parser does not count as a part of it.
fn is_negative(literal: &LiteralValue) -> bool {
    match literal {
        LiteralValue::Int(value) => *value.inner() < 0,
        LiteralValue::Double(value) => value.inner().is_sign_negative(),
        _ => false,
    }
}

pub(super) fn of_entry(entry: &IdedEntryExpr, source: &SourceInfo) -> Option<usize> {
    start(entry.id, source)
}

fn start(id: u64, source: &SourceInfo) -> Option<usize> {
    source.offset_for(id).map(|(start, _)| start as usize)
}

fn is_operator(function: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric();
    function.starts_with('@')
        || !function.starts_with(|letter| is_letter(letter) || letter == '_' || letter == '.')
        || (function.starts_with('_')
            && !function
                .chars()
                .all(|letter| is_letter(letter) || letter == '_'))
}
