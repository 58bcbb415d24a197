//! Cases of cel-go's and Kubernetes' tables, described anew.

mod constants;
mod errors;
mod language;
mod libraries;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, MapExpr};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{Env, Program};

use crate::{CheckErrors, Checked, Declarations, Type, check, parse_type};

/// A parsed expression, with the macros of the extensions.
fn parse(source: &str) -> Program {
    let mut env = Env::stdlib();
    for extension in [cel::extensions::lists, cel::extensions::math] {
        env.add_extension(extension).unwrap();
    }
    env.add_macro(Macro::receiver("transformMap", 3, transform_map))
        .unwrap();
    env.add_macro(Macro::receiver("transformList", 3, transform_list))
        .unwrap();
    env.add_macro(Macro::receiver("bind", 3, bind)).unwrap();
    env.compile(source)
        .unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn checked(source: &str, declarations: &Declarations) -> Result<Checked, CheckErrors> {
    let program = parse(source);
    check(program.expression(), program.source_info(), declarations)
}

/// The variables of most cases.
fn declarations() -> Declarations {
    declared(Declarations::standard())
}

fn declared(declarations: Declarations) -> Declarations {
    let field = |(name, of): (&str, &str)| (name.to_owned(), parse_type(of).unwrap());
    let part = Type::object("Part", [("bb", "int"), ("name", "string")].map(field));
    let fields = [
        ("number", "int"),
        ("count", "uint"),
        ("text", "string"),
        ("flag", "bool"),
        ("ratio", "double"),
        ("data", "bytes"),
        ("since", "timestamp"),
        ("period", "duration"),
        ("any", "dyn"),
        ("numbers", "list(int)"),
        ("texts", "list(string)"),
        ("labels", "map(string, string)"),
        ("free", "map(string, dyn)"),
        ("maybe", "wrapper(int)"),
    ];
    let parts = [
        ("part".to_owned(), part.clone()),
        ("parts".to_owned(), Type::list(part.clone())),
        ("by_id".to_owned(), Type::map(Type::Int, part.clone())),
    ];
    let whole = Type::object("Whole", fields.map(field).into_iter().chain(parts));
    let variables = [
        ("is", "string"),
        ("ii", "int"),
        ("iu", "uint"),
        ("iz", "bool"),
        ("ib", "bytes"),
        ("id", "double"),
        ("ix", "null"),
        ("id_dyn", "dyn"),
        ("param", "T"),
        ("maybe_int", "wrapper(int)"),
        ("opt_map", "optional_type(map(string, string))"),
        ("opt_dyn", "optional_type(dyn)"),
        ("opt_text", "optional_type(string)"),
        ("labels", "map(string, string)"),
        ("objects", "list(map(string, string))"),
        ("a.b.c", "int"),
    ];
    variables
        .into_iter()
        .fold(declarations, |all, (name, of)| {
            all.with_variable(name, parse_type(of).unwrap())
        })
        .with_variable("x", whole.clone())
        .with_variable("xs", Type::list(whole.clone()))
        .with_variable("xm", Type::map(Type::String, whole.clone()))
        .with_type("Whole", whole)
        .with_type("Part", part)
}

/// Asserts that each expression has a type.
fn assert_types(declarations: &Declarations, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (source, expected) in cases {
        let actual = match checked(source, declarations) {
            Ok(checked) => checked.result.to_string(),
            Err(errors) => errors.to_string(),
        };
        if actual != *expected {
            wrong.push(format!("{source}\n  is {actual}\n  not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asserts that each expression has these errors, one a line: `line:column message`.
fn assert_errors(declarations: &Declarations, cases: &[(&str, &[&str])]) {
    let mut wrong = Vec::new();
    for (source, expected) in cases {
        let actual = match checked(source, declarations) {
            Ok(checked) => vec![format!("type {}", checked.result)],
            Err(errors) => {
                let text = |error: &crate::CheckError| {
                    let at = error.position;
                    format!("{}:{} {}", at.line, at.column, error.kind)
                };
                errors.errors.iter().map(text).collect()
            }
        };
        if actual != *expected {
            wrong.push(format!("{source}\n  is {actual:#?}\n  not {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

type Expansion = Result<Option<IdedExpr>, ParseError>;

fn name(part: IdedExpr) -> String {
    match part.expr {
        Expr::Ident(name) => name,
        other => panic!("{other:?} is no name"),
    }
}

fn two_variables(
    maker: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
    init: Expr,
    step: impl FnOnce(&mut MacroExprHelper<'_>, IdedExpr, IdedExpr, IdedExpr) -> Expr,
) -> Expansion {
    let (transform, second, first) = (
        args.pop().unwrap(),
        name(args.pop().unwrap()),
        name(args.pop().unwrap()),
    );
    let result = |maker: &mut MacroExprHelper<'_>| maker.next_expr(Expr::Ident("@result".into()));
    let (accumulated, key) = (result(maker), maker.next_expr(Expr::Ident(first.clone())));
    let step = step(maker, accumulated, key, transform);
    let all = ComprehensionExpr {
        iter_range: target.take().unwrap(),
        iter_var: first,
        iter_var2: Some(second),
        accu_var: "@result".to_owned(),
        accu_init: maker.next_expr(init),
        loop_cond: maker.next_expr(Expr::Literal(cel::common::ast::LiteralValue::Boolean(
            true.into(),
        ))),
        loop_step: maker.next_expr(step),
        result: result(maker),
    };
    Ok(Some(maker.next_expr(Expr::Comprehension(Box::new(all)))))
}

fn transform_map(
    maker: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Expansion {
    let init = Expr::Map(MapExpr::default());
    two_variables(maker, target, args, init, |_, result, key, value| {
        Expr::Call(CallExpr {
            func_name: "cel.@mapInsert".to_owned(),
            target: None,
            args: vec![result, key, value],
        })
    })
}

fn transform_list(
    maker: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Expansion {
    let init = Expr::List(ListExpr::default());
    two_variables(maker, target, args, init, |maker, result, _, value| {
        let element = maker.next_expr(Expr::List(ListExpr::new(vec![value])));
        Expr::Call(CallExpr {
            func_name: "_+_".to_owned(),
            target: None,
            args: vec![result, element],
        })
    })
}

/// `cel.bind(name, value, expression)`.
fn bind(
    maker: &mut MacroExprHelper<'_>,
    _: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Expansion {
    let (result, value, bound) = (
        args.pop().unwrap(),
        args.pop().unwrap(),
        name(args.pop().unwrap()),
    );
    let all = ComprehensionExpr {
        iter_range: maker.next_expr(Expr::List(ListExpr::default())),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: bound.clone(),
        accu_init: value,
        loop_cond: maker.next_expr(Expr::Literal(cel::common::ast::LiteralValue::Boolean(
            false.into(),
        ))),
        loop_step: maker.next_expr(Expr::Ident(bound)),
        result,
    };
    Ok(Some(maker.next_expr(Expr::Comprehension(Box::new(all)))))
}
