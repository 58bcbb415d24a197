//! The CEL libraries of Kubernetes in addition to the language's own functions ("Common Expression Language in
//! Kubernetes", "CEL libraries").

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue};
use cel::extractors::This;
use cel::objects::Opaque;
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{Context, Env, ExecutionError, Value as Cel};
use json_tree::Value;
use object_model::{Quantity, Semver};

use crate::format;

type Outcome = Result<Cel, ExecutionError>;

/// The environment with the language and its extensions.
pub(crate) fn environment() -> Env {
    let mut env = Env::stdlib();
    // The environment is new, and each name is declared once, so no name is declared twice.
    let extensions = [
        cel::extensions::strings,
        cel::extensions::lists,
        cel::extensions::math,
        cel::extensions::encoders,
    ];
    for extension in extensions {
        let added = env.add_extension(extension);
        debug_assert!(added.is_ok());
    }
    let added = env.add_macro(Macro::receiver("bind", 3, bind));
    debug_assert!(added.is_ok());
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
            return Err(maker.new_error(id, "the first argument of cel.bind() is no name"));
        }
    };
    let (Some(result), Some(value)) = (args.pop(), args.pop()) else {
        return Ok(None);
    };
    let nothing = ListExpr {
        elements: Vec::new(),
        optional_indices: Vec::new(),
    };
    let all = ComprehensionExpr {
        iter_range: maker.next_expr(Expr::List(nothing)),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: name.clone(),
        accu_init: value,
        loop_cond: maker.next_expr(Expr::Literal(LiteralValue::Boolean(false.into()))),
        loop_step: maker.next_expr(Expr::Ident(name)),
        result,
    };
    Ok(Some(maker.next_expr(Expr::Comprehension(Box::new(all)))))
}

/// Adds the functions to the context of an evaluation.
pub(crate) fn add_functions(context: &mut Context<'_, '_>) {
    let added = [
        context.add_function("isSorted", |This(list): This<Arc<Vec<Cel>>>| {
            list.is_sorted_by(|one, other| one.partial_cmp(other) != Some(Ordering::Greater))
        }),
        context.add_function("sum", |This(list): This<Arc<Vec<Cel>>>| sum(&list)),
        context.add_function("min", |This(list): This<Arc<Vec<Cel>>>| {
            extreme("min", &list, Ordering::Less)
        }),
        context.add_function("max", |This(list): This<Arc<Vec<Cel>>>| {
            extreme("max", &list, Ordering::Greater)
        }),
        context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok()),
        context.add_function("isCIDR", |text: Arc<String>| format::matches("cidr", &text)),
        context.add_function("isURL", |text: Arc<String>| format::matches("uri", &text)),
        context.add_function("isQuantity", |text: Arc<String>| parse(&text).is_some()),
        context.add_function("quantity", |text: Arc<String>| match parse(&text) {
            Some(quantity) => Ok(opaque(quantity)),
            None => Err(failed("quantity", format!("{text:?} is no quantity"))),
        }),
        context.add_function("ip", |text: Arc<String>| match text.parse::<IpAddr>() {
            Ok(address) => Ok(Cel::Opaque(Arc::new(Address(address)))),
            Err(error) => Err(failed("ip", error.to_string())),
        }),
    ];
    debug_assert!(added.iter().all(Result::is_ok));
    add_quantity_methods(context);
    add_version_functions(context);
    let added = context.add_function("family", |This(address): This<Cel>| match address {
        Cel::Opaque(opaque) => match opaque.downcast_ref::<Address>() {
            Some(Address(IpAddr::V4(Ipv4Addr { .. }))) => Ok(4_i64),
            Some(Address(IpAddr::V6(Ipv6Addr { .. }))) => Ok(6_i64),
            None => Err(failed("family", "not an address".to_owned())),
        },
        _ => Err(failed("family", "not an address".to_owned())),
    });
    debug_assert!(added.is_ok());
}

fn add_quantity_methods(context: &mut Context<'_, '_>) {
    let added = [
        context.add_function("isLessThan", |This(one): This<Cel>, other: Cel| {
            Ok::<_, ExecutionError>(order(&one, &other)? == Ordering::Less)
        }),
        context.add_function("isGreaterThan", |This(one): This<Cel>, other: Cel| {
            Ok::<_, ExecutionError>(order(&one, &other)? == Ordering::Greater)
        }),
        context.add_function("compareTo", |This(one): This<Cel>, other: Cel| {
            Ok::<_, ExecutionError>(order(&one, &other)? as i64)
        }),
        context.add_function("add", |This(one): This<Cel>, other: Cel| {
            Ok::<_, ExecutionError>(opaque(quantity(&one)?.plus(&quantity(&other)?)))
        }),
        context.add_function("sub", |This(one): This<Cel>, other: Cel| {
            Ok::<_, ExecutionError>(opaque(quantity(&one)?.minus(&quantity(&other)?)))
        }),
        context.add_function("sign", |This(one): This<Cel>| {
            let one = quantity(&one)?;
            let zero = one.minus(&one);
            Ok::<_, ExecutionError>(one.cmp(&zero) as i64)
        }),
        context.add_function("isInteger", |This(one): This<Cel>| {
            Ok::<_, ExecutionError>(quantity(&one)?.is_integer())
        }),
        context.add_function("asInteger", |This(one): This<Cel>| {
            let one = quantity(&one)?;
            if one.is_integer() {
                return Ok(one.value());
            }
            Err(failed("asInteger", "not a whole number".to_owned()))
        }),
    ];
    debug_assert!(added.iter().all(Result::is_ok));
}

fn add_version_functions(context: &mut Context<'_, '_>) {
    let part = |one: &Cel, index: usize| match semver(one) {
        Some(version) => {
            let number = version.numbers().get(index).copied().unwrap_or_default();
            Ok(i64::try_from(number).unwrap_or(i64::MAX))
        }
        None => Err(failed("semver", "not a version".to_owned())),
    };
    let added = [
        context.add_function("isSemver", |text: Arc<String>| {
            Semver::parse(&text).is_some()
        }),
        context.add_function("semver", |text: Arc<String>| match Semver::parse(&text) {
            Some(text) => Ok(version(text)),
            None => Err(failed("semver", format!("{text:?} is no version"))),
        }),
        context.add_function("major", move |This(one): This<Cel>| part(&one, 0)),
        context.add_function("minor", move |This(one): This<Cel>| part(&one, 1)),
        context.add_function("patch", move |This(one): This<Cel>| part(&one, 2)),
    ];
    debug_assert!(added.iter().all(Result::is_ok));
}

/// The order of two quantities or two versions.
fn order(one: &Cel, other: &Cel) -> Result<Ordering, ExecutionError> {
    match (semver(one), semver(other)) {
        (Some(one), Some(other)) => Ok(one.cmp(other)),
        _ => Ok(quantity(one)?.cmp(&quantity(other)?)),
    }
}

/// A version as a CEL value.
#[derive(Debug, PartialEq, Eq)]
struct Version(Semver);

impl Opaque for Version {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

pub(crate) fn version(version: Semver) -> Cel {
    Cel::Opaque(Arc::new(Version(version)))
}

fn semver(value: &Cel) -> Option<&Semver> {
    match value {
        Cel::Opaque(opaque) => opaque.downcast_ref::<Version>().map(|parsed| &parsed.0),
        _ => None,
    }
}

/// The quantity in a text, as a CEL value; `None` if the text is not a quantity.
pub(crate) fn amount(text: &str) -> Option<Cel> {
    parse(text).map(opaque)
}

fn failed(function: &str, message: String) -> ExecutionError {
    ExecutionError::function_error(function, message)
}

/// A quantity as a CEL value.
#[derive(Debug, PartialEq, Eq)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

/// An IP address as a CEL value.
#[derive(Debug, PartialEq, Eq)]
struct Address(IpAddr);

impl Opaque for Address {
    fn runtime_type_name(&self) -> &str {
        "net.IP"
    }
}

fn parse(text: &str) -> Option<Quantity> {
    Quantity::from_json(&Value::String(text.to_owned())).ok()
}

fn opaque(quantity: Quantity) -> Cel {
    Cel::Opaque(Arc::new(Amount(quantity)))
}

/// A quantity or a whole number, which may be added to and compared with quantities.
fn quantity(value: &Cel) -> Result<Quantity, ExecutionError> {
    let quantity = match value {
        Cel::Opaque(opaque) => opaque.downcast_ref::<Amount>().map(|amount| amount.0),
        Cel::Int(number) => parse(&number.to_string()),
        _ => None,
    };
    quantity.ok_or_else(|| failed("quantity", "not a quantity".to_owned()))
}

fn sum(list: &[Cel]) -> Outcome {
    let mut total = match list.first() {
        None | Some(Cel::Int(_)) => Cel::Int(0),
        Some(Cel::UInt(_)) => Cel::UInt(0),
        Some(Cel::Float(_)) => Cel::Float(0.0),
        Some(Cel::Duration(_)) => Cel::Duration(chrono::Duration::zero()),
        Some(_) => return Err(failed("sum", "elements cannot be added".to_owned())),
    };
    for item in list {
        total = (total + item.clone())?;
    }
    Ok(total)
}

fn extreme(name: &str, list: &[Cel], ordering: Ordering) -> Outcome {
    let mut items = list.iter();
    let first = items.next();
    let mut best = first.ok_or_else(|| failed(name, format!("{name} called on empty list")))?;
    for item in items {
        match item.partial_cmp(best) {
            Some(order) if order == ordering => best = item,
            Some(_) => {}
            None => return Err(failed(name, "elements cannot be compared".to_owned())),
        }
    }
    Ok(best.clone())
}
