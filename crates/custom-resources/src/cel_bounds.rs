//! Size limits of an expression. Each nesting level of an expression uses stack when it is parsed,
//! evaluated and dropped, and a stack overflow ends the whole process: an expression that is too
//! deep is refused before it is parsed.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};

use crate::ExpressionError;

pub(crate) const BYTES_MAX: usize = 64 * 1024;
/// Maximum nesting of brackets.
pub(crate) const DEPTH_MAX: usize = 24;
/// Maximum number of operators, selections and calls. A chain of operators is a nesting of the syntax tree, which is
/// dropped with recursion.
pub(crate) const OPERATORS_MAX: usize = 2_000;
/// Maximum nesting of the syntax tree, which is checked, compiled and evaluated with recursion. A loop is a nesting of
/// five. Chains of `&&` and of `||` are balanced trees.
pub(crate) const TREE_DEPTH_MAX: usize = 160;

/// Checks the nesting of a syntax tree.
///
/// # Errors
/// The tree is nested too deeply.
pub(crate) fn check_depth(expression: &IdedExpr) -> Result<(), ExpressionError> {
    match depth(expression) <= TREE_DEPTH_MAX {
        true => Ok(()),
        false => Err(ExpressionError::TooDeep),
    }
}

fn depth(expression: &IdedExpr) -> usize {
    let below = match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 0,
        Expr::Select(select) => depth(&select.operand),
        Expr::Call(call) => deepest(call.target.as_deref().into_iter().chain(&call.args)),
        Expr::List(list) => deepest(&list.elements),
        Expr::Map(map) => map
            .entries
            .iter()
            .map(entry_depth)
            .max()
            .unwrap_or_default(),
        Expr::Struct(all) => all
            .entries
            .iter()
            .map(entry_depth)
            .max()
            .unwrap_or_default(),
        Expr::Comprehension(all) => deepest([
            &all.iter_range,
            &all.accu_init,
            &all.loop_cond,
            &all.loop_step,
            &all.result,
        ]),
    };
    below + 1
}

fn deepest<'e>(expressions: impl IntoIterator<Item = &'e IdedExpr>) -> usize {
    let depths = expressions.into_iter().map(depth);
    depths.max().unwrap_or_default()
}

fn entry_depth(entry: &IdedEntryExpr) -> usize {
    match &entry.expr {
        EntryExpr::StructField(field) => depth(&field.value),
        EntryExpr::MapEntry(entry) => depth(&entry.key).max(depth(&entry.value)),
    }
}

/// Checks the size of an expression.
///
/// # Errors
/// The exceeded limit.
pub(crate) fn check(source: &str) -> Result<(), ExpressionError> {
    if source.len() > BYTES_MAX {
        return Err(ExpressionError::TooLong);
    }
    let (mut depth, mut deepest, mut operators) = (0_usize, 0, 0);
    let mut rest = source;
    while let Some(letter) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        if matches!(letter, '\'' | '"') {
            let raw = is_raw(&source[..source.len() - rest.len()]);
            rest = after_text(rest, letter, raw).ok_or(ExpressionError::UnreadableText)?;
            continue;
        }
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
        operators += usize::from("([{+-*/%<>=!&|?:.".contains(letter));
        rest = &rest[letter.len_utf8()..];
    }
    if deepest > DEPTH_MAX {
        return Err(ExpressionError::TooDeep);
    }
    if operators > OPERATORS_MAX {
        return Err(ExpressionError::TooManyOperators);
    }
    Ok(())
}

/// The text after a string literal; `None` if the parser would not accept the literal. The parser continues after an
/// invalid literal and would parse the rest of the literal as an expression.
fn after_text(source: &str, quote: char, raw: bool) -> Option<&str> {
    let long: String = std::iter::repeat_n(quote, 3).collect();
    let is_long = source.starts_with(&long);
    let end = if is_long { long } else { quote.to_string() };
    let mut rest = &source[end.len()..];
    loop {
        if let Some(after) = rest.strip_prefix(end.as_str()) {
            return Some(after);
        }
        let letter = rest.chars().next()?;
        rest = match letter {
            '\n' | '\r' if !is_long => return None,
            '\\' if !raw => after_escape(&rest[1..])?,
            _ => &rest[letter.len_utf8()..],
        };
    }
}

/// The text after an escape sequence, where `rest` follows the backslash.
fn after_escape(rest: &str) -> Option<&str> {
    let letter = rest.chars().next()?;
    let (digits, base, begin) = match letter {
        'x' | 'X' => (2, 16, 1),
        'u' => (4, 16, 1),
        'U' => (8, 16, 1),
        '0'..='3' => (3, 8, 0),
        letter if "abfnrtv\"'\\?`".contains(letter) => (0, 16, 1),
        _ => return None,
    };
    let (number, after) = rest.get(begin..)?.split_at_checked(digits)?;
    number
        .chars()
        .all(|digit| digit.is_digit(base))
        .then_some(after)
}

/// Whether the next literal is a raw string: `r'\d+'`, `rb'..'`.
fn is_raw(before: &str) -> bool {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let prefix = &before[before.trim_end_matches(is_name).len()..];
    ["r", "rb", "br"].contains(&prefix.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expression, Schema, broken_rules};
    use json_tree::json;

    /// Each thread of the server has a stack of 2 MiB. A build without optimisation needs about five times the stack
    /// for an expression.
    const STACK_BYTES: usize = if cfg!(debug_assertions) { 16 } else { 2 } << 20;

    /// Evaluates an expression on a thread with the stack size of the server's threads.
    fn judged(source: String) -> Result<(), String> {
        let work = move || {
            Expression::compile(&source).map_err(|error| error.to_string())?;
            let list = json!({"type": "array", "items": {"type": "integer"}});
            let schema = Schema::parse(&json!({
                "type": "object",
                "properties": {"a": {"type": "integer"}, "l": list},
                "x-kubernetes-validations": [{"rule": source}],
            }));
            match &broken_rules(&json!({"a": 1, "l": [1, 2]}), None, &schema)[..] {
                [] => Ok(()),
                [broken, ..] => Err(broken.to_string()),
            }
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn(work).unwrap().join().unwrap()
    }

    #[test]
    fn deep_expressions_are_refused_and_those_within_bounds_fit_the_stack() {
        let nested = |open: &str, inner: &str, close: &str, times: usize| {
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        for (open, inner, close) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("{'a':", "1", "}"),
            ("size([", "1", "])"),
            ("[1].map(i, ", "1", ")"),
            ("self.l.all(i, ", "true", ")"),
            ("!(", "true", ")"),
            ("(1 + ", "1", ")"),
            ("(true ? ", "1", " : 2)"),
            ("n.starts(n, ", "", ""),
        ] {
            for times in [4, 6, 12, 20, 24, 25, 200, 100_000] {
                let _result = judged(nested(open, inner, close, times));
            }
            assert!(judged(nested(open, inner, close, 200)).is_err(), "{open}");
        }
        for (link, first) in [
            (" + 1", "1"),
            (" && true", "true"),
            (" || false", "false"),
            (".a", "self"),
            ("[0]", "self.l"),
            (" ? 1 : true", "true"),
            (".map(i, i)", "self.l"),
            (" in self.l", "1"),
        ] {
            for times in [10, 99, 155, 165, 900, 1_900, 2_100, 30_000] {
                let _result = judged(format!("{first}{}", link.repeat(times)));
            }
        }
        for prefix in ["!", "-", "- "] {
            for times in [10, 90, 100, 200, 1_900, 30_000] {
                let _result = judged(format!("{}1", prefix.repeat(times)));
            }
        }
        assert_eq!(judged(format!("1{} == 151", " + 1".repeat(150))), Ok(()));
        assert_eq!(
            judged(format!("true{}", " && self.a > 0".repeat(450))),
            Ok(())
        );
    }

    #[test]
    fn texts_are_not_counted() {
        assert_eq!(check(&format!("self.a == '{}'", "(".repeat(1000))), Ok(()));
        assert_eq!(
            check(&format!("\"\"\"{}\"\"\" != r'x'", "['".repeat(500))),
            Ok(())
        );
        assert_eq!(check(&format!("'\\'{}'", "(".repeat(1000))), Ok(()));
        assert!(check(&format!("'a'{}", "(".repeat(1000))).is_err());
        assert!(check(&"x".repeat(70_000)).is_err());
    }

    /// The parser continues in the middle of an invalid literal, so text that this check treats as a literal would be
    /// brackets for the parser.
    #[test]
    fn texts_that_the_reader_would_not_take_are_refused() {
        let deep = "[a-".repeat(500);
        for text in [
            format!("self.matches('{deep}\r{deep}')"),
            format!("self.matches('\n{deep}')"),
            format!("self.matches('\\q{deep}')"),
            format!("self.matches('\\u12{deep}')"),
            format!("self.matches('{deep})"),
            format!("forr'\\q{deep}'"),
        ] {
            assert_eq!(check(&text), Err(ExpressionError::UnreadableText), "{text}");
            assert!(Expression::compile(&text).is_err());
        }
        for text in [
            r"self.matches(r'\d+\q')",
            r"self.matches(rb'\d+')",
            r#"'\u00e9\x41\101\n' == "\"""#,
            "'''a\nb''' == self // don't\n && true",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
