//! The macros of the parser: those of the language and of cel-go's extensions.

use cel::Env;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, operators,
};
use cel::parser::{Macro, MacroExprHelper, ParseError};

use crate::call::MAP_INSERT_NAME;

/// The name of the accumulator of a loop, which no expression can spell.
const ACCUMULATOR: &str = "@result";

/// The environment of the parser.
pub fn environment() -> Env {
    let mut env = Env::stdlib();
    // Only the macros of these extensions are used. The environment is new, and each name is declared once.
    let extensions = [cel::extensions::lists, cel::extensions::math];
    for extension in extensions {
        let added = env.add_extension(extension);
        debug_assert!(added.is_ok());
    }
    let macros = [
        Macro::receiver("bind", 3, bind),
        two("all", 3, all),
        two("exists", 3, exists),
        two("exists_one", 3, exists_one),
        two("existsOne", 3, exists_one),
        two("transformList", 3, transform_list),
        two("transformList", 4, transform_list),
        two("transformMap", 3, transform_map),
        two("transformMap", 4, transform_map),
        two("transformMapEntry", 3, transform_map_entry),
        two("transformMapEntry", 4, transform_map_entry),
    ];
    for added in macros.map(|added| env.add_macro(added)) {
        debug_assert!(added.is_ok());
    }
    env
}

/// `cel.bind(name, value, expression)`: evaluates the expression with the name bound to the value. The implementation
/// is a loop over an empty list with the value as its initial accumulator.
fn bind(
    maker: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    let is_ours = |target: &IdedExpr| matches!(&target.expr, Expr::Ident(name) if name == "cel");
    if !target.as_ref().is_some_and(is_ours) {
        return Ok(None);
    }
    let name = match args.first().map(|name| &name.expr) {
        Some(Expr::Ident(name)) => name.clone(),
        _ => {
            let id = args.first().map_or(0, |name| name.id);
            return Err(maker.new_error(id, "cel.bind() variable names must be simple identifiers"));
        }
    };
    let (Some(result), Some(value)) = (args.pop(), args.pop()) else {
        return Ok(None);
    };
    let all = ComprehensionExpr {
        iter_range: maker.next_expr(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: name.clone(),
        accu_init: value,
        loop_cond: boolean(maker, false),
        loop_step: maker.next_expr(Expr::Ident(name)),
        result,
    };
    Ok(Some(maker.next_expr(Expr::Comprehension(Box::new(all)))))
}

/// The parts of a loop that its macro decides.
struct Parts {
    initial: IdedExpr,
    condition: IdedExpr,
    step: IdedExpr,
    result: IdedExpr,
}

/// The parts of a loop from the arguments after the names: an optional filter, and the last argument.
type Expander = fn(&mut MacroExprHelper<'_>, &str, Option<IdedExpr>, IdedExpr) -> Parts;

/// A macro for a loop with two variables: the index or key, and the value.
fn two(name: &str, count: usize, expander: Expander) -> Macro {
    Macro::receiver(name, count, move |maker, target, args| {
        let key = variable(maker, args.first())?;
        let value = variable(maker, args.get(1))?;
        if key == value {
            let id = args.get(1).map_or(0, |name| name.id);
            return Err(maker.new_error(id, format!("duplicate variable name: {key}")));
        }
        let mut args = std::mem::take(args).into_iter().skip(2);
        let filter = if count == 4 { args.next() } else { None };
        let (Some(range), Some(last)) = (target.take(), args.next()) else {
            return Err(maker.new_error(0, "an argument is missing"));
        };
        let parts = expander(maker, &key, filter, last);
        let all = ComprehensionExpr {
            iter_range: range,
            iter_var: key,
            iter_var2: Some(value),
            accu_var: ACCUMULATOR.to_owned(),
            accu_init: parts.initial,
            loop_cond: parts.condition,
            loop_step: parts.step,
            result: parts.result,
        };
        Ok(Some(maker.next_expr(Expr::Comprehension(Box::new(all)))))
    })
}

fn variable(
    maker: &mut MacroExprHelper<'_>,
    argument: Option<&IdedExpr>,
) -> Result<String, ParseError> {
    match argument.map(|argument| (&argument.expr, argument.id)) {
        Some((Expr::Ident(name), _)) => Ok(name.clone()),
        other => {
            let id = other.map_or(0, |(_, id)| id);
            Err(maker.new_error(id, "argument must be a simple name"))
        }
    }
}

fn all(
    maker: &mut MacroExprHelper<'_>,
    _key: &str,
    _filter: Option<IdedExpr>,
    predicate: IdedExpr,
) -> Parts {
    let current = accumulator(maker);
    let before = accumulator(maker);
    Parts {
        initial: boolean(maker, true),
        condition: call(maker, operators::NOT_STRICTLY_FALSE, vec![current]),
        step: call(maker, operators::LOGICAL_AND, vec![before, predicate]),
        result: accumulator(maker),
    }
}

fn exists(
    maker: &mut MacroExprHelper<'_>,
    _key: &str,
    _filter: Option<IdedExpr>,
    predicate: IdedExpr,
) -> Parts {
    let current = accumulator(maker);
    let negated = call(maker, operators::LOGICAL_NOT, vec![current]);
    let before = accumulator(maker);
    Parts {
        initial: boolean(maker, false),
        condition: call(maker, operators::NOT_STRICTLY_FALSE, vec![negated]),
        step: call(maker, operators::LOGICAL_OR, vec![before, predicate]),
        result: accumulator(maker),
    }
}

fn exists_one(
    maker: &mut MacroExprHelper<'_>,
    _key: &str,
    _filter: Option<IdedExpr>,
    predicate: IdedExpr,
) -> Parts {
    let count = accumulator(maker);
    let one = number(maker, 1);
    let next = call(maker, operators::ADD, vec![count, one]);
    let step = conditional(maker, Some(predicate), next);
    let count = accumulator(maker);
    let one = number(maker, 1);
    Parts {
        initial: number(maker, 0),
        condition: boolean(maker, true),
        step,
        result: call(maker, operators::EQUALS, vec![count, one]),
    }
}

fn transform_list(
    maker: &mut MacroExprHelper<'_>,
    _key: &str,
    filter: Option<IdedExpr>,
    element: IdedExpr,
) -> Parts {
    let before = accumulator(maker);
    let added = maker.next_expr(Expr::List(ListExpr::new(vec![element])));
    let next = call(maker, operators::ADD, vec![before, added]);
    let initial = maker.next_expr(Expr::List(ListExpr::new(Vec::new())));
    transformed(maker, initial, filter, next)
}

fn transform_map(
    maker: &mut MacroExprHelper<'_>,
    key: &str,
    filter: Option<IdedExpr>,
    value: IdedExpr,
) -> Parts {
    let before = accumulator(maker);
    let key = maker.next_expr(Expr::Ident(key.to_owned()));
    let next = insertion(maker, vec![before, key, value]);
    let initial = maker.next_expr(Expr::Map(MapExpr::default()));
    transformed(maker, initial, filter, next)
}

fn transform_map_entry(
    maker: &mut MacroExprHelper<'_>,
    _key: &str,
    filter: Option<IdedExpr>,
    entries: IdedExpr,
) -> Parts {
    let before = accumulator(maker);
    let next = insertion(maker, vec![before, entries]);
    let initial = maker.next_expr(Expr::Map(MapExpr::default()));
    transformed(maker, initial, filter, next)
}

fn transformed(
    maker: &mut MacroExprHelper<'_>,
    initial: IdedExpr,
    filter: Option<IdedExpr>,
    next: IdedExpr,
) -> Parts {
    Parts {
        initial,
        condition: boolean(maker, true),
        step: conditional(maker, filter, next),
        result: accumulator(maker),
    }
}

/// The next accumulator if a filter is true, and the present one otherwise.
fn conditional(
    maker: &mut MacroExprHelper<'_>,
    filter: Option<IdedExpr>,
    next: IdedExpr,
) -> IdedExpr {
    match filter {
        None => next,
        Some(filter) => {
            let same = accumulator(maker);
            call(maker, operators::CONDITIONAL, vec![filter, next, same])
        }
    }
}

fn insertion(maker: &mut MacroExprHelper<'_>, args: Vec<IdedExpr>) -> IdedExpr {
    let namespace = maker.next_expr(Expr::Ident("cel".to_owned()));
    maker.next_expr(Expr::Call(CallExpr {
        func_name: MAP_INSERT_NAME.to_owned(),
        target: Some(Box::new(namespace)),
        args,
    }))
}

fn accumulator(maker: &mut MacroExprHelper<'_>) -> IdedExpr {
    maker.next_expr(Expr::Ident(ACCUMULATOR.to_owned()))
}

fn boolean(maker: &mut MacroExprHelper<'_>, value: bool) -> IdedExpr {
    maker.next_expr(Expr::Literal(LiteralValue::Boolean(value.into())))
}

fn number(maker: &mut MacroExprHelper<'_>, value: i64) -> IdedExpr {
    maker.next_expr(Expr::Literal(LiteralValue::Int(value.into())))
}

fn call(maker: &mut MacroExprHelper<'_>, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    maker.next_expr(Expr::Call(CallExpr {
        func_name: name.to_owned(),
        target: None,
        args,
    }))
}
