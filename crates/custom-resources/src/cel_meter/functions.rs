//! The functions that the metered syntax trees call. Their names cannot occur in an expression.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError, Value as Cel};
use regex::{Regex, RegexBuilder};

use super::{COPY_COST, Function, Meter, READ_COST, TENTHS, text, weight};

/// Wraps a value that is copied and stored.
pub(super) const COPIED: &str = "#kept";
/// Wraps a value that a function reads as a whole.
pub(super) const READ: &str = "#seen";
/// Wraps a value of which only the size is read.
pub(super) const MEASURED: &str = "#measured";
/// Wraps the values of a loop, and charges the cost of one step at the start of the loop.
pub(super) const RANGE: &str = "#range";
/// Charges one step of a loop.
pub(super) const STEP: &str = "#step";
/// Wraps a key or an index.
pub(super) const KEY: &str = "#key";
pub(super) const EQUAL: &str = "#equal";
pub(super) const DIFFERENT: &str = "#different";
pub(super) const WITHIN: &str = "#in";
const ADDED: &str = "#add";
const MATCHES: &str = "#matches";
const FIND: &str = "#find";
const FIND_ALL: &str = "#findAll";

/// The cost of a call in tenths of a unit, from its target and arguments.
type Price = fn(&[CowVal<'_, '_>]) -> u64;

/// The cost of one value, in tenths of a unit.
type PriceOfValue = fn(&dyn Val) -> u64;

/// Functions that cost more than one read of their values, or whose results are larger.
static PRICED: [(&str, Price); 12] = [
    ("@sortByAssociatedKeys", sorted),
    ("distinct", distinct),
    ("flatten", copied),
    ("indexOf", searched),
    ("join", joined),
    ("lastIndexOf", searched),
    ("lists.range", counted),
    ("replace", replaced),
    ("reverse", copied),
    ("slice", copied),
    ("sort", sorted),
    ("split", split),
];

/// Maximum number of arguments of such a function, including its target.
const ARGS_MAX: usize = 4;
/// The parameter names of such a function.
const ARGS: [&str; ARGS_MAX] = ["#0", "#1", "#2", "#3"];

/// The function that replaces a call; its first argument is the target of the call.
pub(super) fn replacement(call: &CallExpr, is_namespace: bool) -> Option<String> {
    let is_literal = |arg: &IdedExpr| matches!(arg.expr, Expr::Literal(_));
    let new_name = match call.func_name.as_str() {
        operators::EQUALS if !call.args.iter().any(is_literal) => EQUAL,
        operators::NOT_EQUALS if !call.args.iter().any(is_literal) => DIFFERENT,
        operators::IN => WITHIN,
        operators::ADD => ADDED,
        "matches" => MATCHES,
        "find" if call.target.is_some() => FIND,
        "findAll" if call.target.is_some() => FIND_ALL,
        name => {
            let full = match call.target.as_deref().map(|target| &target.expr) {
                Some(Expr::Ident(namespace)) if is_namespace => format!("{namespace}.{name}"),
                Some(_) => name.to_owned(),
                None => return None,
            };
            let is_own = PRICED.iter().any(|(name, _)| *name == full);
            return is_own.then(|| format!("#{full}"));
        }
    };
    Some(new_name.to_owned())
}

/// Adds the functions to the context of an evaluation.
pub(super) fn add(context: &mut Context<'_, '_>, meter: &Arc<Meter>) {
    let mut functions = Functions(context);
    add_charges(&mut functions, meter);
    add_index_check(&mut functions);
    add_comparisons(&mut functions, meter);
    add_sum(&mut functions, meter);
    add_patterns(&mut functions, meter);
    add_priced(&mut functions, meter);
}

/// The functions of a context.
struct Functions<'c, 'p, 'v>(&'c mut Context<'p, 'v>);

impl Functions<'_, '_, '_> {
    fn add(&mut self, name: &str, function: Function) {
        let result = self.0.add_function::<Function, Function>(name, function);
        debug_assert!(result.is_ok());
    }
}

/// The functions that charge for a value or for steps, and return their argument.
fn add_charges(functions: &mut Functions<'_, '_, '_>, meter: &Arc<Meter>) {
    let passed: [(&str, PriceOfValue); 3] =
        [(COPIED, copy_cost), (READ, read_cost), (MEASURED, measured)];
    for (name, price) in passed {
        let meter = meter.clone();
        functions.add(
            name,
            Box::new(move |call| {
                let value = only(&mut call.args)?;
                meter.charge(price(value.as_ref()))?;
                Ok(value)
            }),
        );
    }
    let step_meter = meter.clone();
    functions.add(
        STEP,
        Box::new(move |call| {
            let nodes = number(&only(&mut call.args)?);
            step_meter.charge(nodes * TENTHS)?;
            Ok(CowVal::owned(CelBool::from(true)))
        }),
    );
    let meter = meter.clone();
    functions.add(
        RANGE,
        Box::new(move |call| {
            let [range, nodes] = both(&mut call.args)?;
            let (length, copies) = ranged(range.as_ref());
            let steps = length.saturating_mul(number(&nodes) * TENTHS);
            meter.charge(steps.saturating_add(copies))?;
            Ok(range)
        }),
    );
}

/// The check of the index of a list.
fn add_index_check(functions: &mut Functions<'_, '_, '_>) {
    functions.add(
        KEY,
        Box::new(move |call| {
            let key = only(&mut call.args)?;
            // The interpreter's error would contain a copy of the list.
            let is_fraction = |key: &CelDouble| key.inner().fract() != 0.0;
            if key.downcast_ref::<CelDouble>().is_some_and(is_fraction) {
                return Err(ExecutionError::function_error(
                    "_[_]",
                    "an index must be a whole number",
                ));
            }
            Ok(key)
        }),
    );
}

/// Equality, and membership in a list or map.
fn add_comparisons(functions: &mut Functions<'_, '_, '_>, meter: &Arc<Meter>) {
    for (name, expected) in [(EQUAL, true), (DIFFERENT, false)] {
        let meter = meter.clone();
        functions.add(
            name,
            Box::new(move |call| {
                let [one, other] = both(&mut call.args)?;
                meter.charge(compared(one.as_ref(), other.as_ref()))?;
                Ok(CowVal::owned(CelBool::from(
                    one.equals(other.as_ref()) == expected,
                )))
            }),
        );
    }
    let meter = meter.clone();
    functions.add(
        WITHIN,
        Box::new(move |call| {
            let [value, container] = both(&mut call.args)?;
            let length = match container.downcast_ref::<CelList<'_>>() {
                Some(list) => list.inner().len() as u64,
                None => 1,
            };
            let each = weight(value.as_ref(), READ_COST) + READ_COST;
            meter.charge(length.saturating_mul(each))?;
            let within = container
                .as_container()
                .ok_or_else(|| unsuitable("@in", &[value.as_ref(), container.as_ref()]))?;
            let is_contained = within.contains(value.as_ref());
            let is_contained = is_contained
                .map_err(|_| unsuitable("@in", &[value.as_ref(), container.as_ref()]))?;
            Ok(CowVal::owned(CelBool::from(is_contained)))
        }),
    );
}

fn add_sum(functions: &mut Functions<'_, '_, '_>, meter: &Arc<Meter>) {
    let meter = meter.clone();
    functions.add(
        ADDED,
        Box::new(move |call| {
            let [one, other] = both(&mut call.args)?;
            meter.charge(copy_cost(one.as_ref()) + copy_cost(other.as_ref()))?;
            let adder = one
                .as_adder()
                .ok_or_else(|| unsuitable("_+_", &[one.as_ref(), other.as_ref()]))?;
            Ok(CowVal::Owned(adder.add(other.as_ref())?.into_owned()))
        }),
    );
}

/// The functions of regular expressions.
fn add_patterns(functions: &mut Functions<'_, '_, '_>, meter: &Arc<Meter>) {
    let patterns = Arc::new(Patterns::default());
    for name in [MATCHES, FIND, FIND_ALL] {
        let (meter, patterns) = (meter.clone(), patterns.clone());
        functions.add(
            name,
            Box::new(move |call| {
                let [text, pattern] = texts(&mut call.args, name)?;
                let regex = patterns.get(&pattern, &text, &meter)?;
                Ok(match name {
                    MATCHES => CowVal::owned(CelBool::from(regex.is_match(&text))),
                    FIND => {
                        let text_match = regex
                            .find(&text)
                            .map(|text_match| text_match.as_str().to_owned());
                        CowVal::owned(CelString::from(text_match.unwrap_or_default()))
                    }
                    _ => {
                        let mut all: Vec<Box<dyn Val>> = Vec::new();
                        for text_match in regex.find_iter(&text) {
                            meter.charge(COPY_COST)?;
                            all.push(Box::new(CelString::from(text_match.as_str().to_owned())));
                        }
                        CowVal::owned(CelList::from(all))
                    }
                })
            }),
        );
    }
}

/// The functions whose price depends on their arguments.
fn add_priced(functions: &mut Functions<'_, '_, '_>, meter: &Arc<Meter>) {
    for (name, price) in &PRICED {
        let meter = meter.clone();
        functions.add(
            &format!("#{name}"),
            Box::new(move |call| {
                let args = std::mem::take(&mut call.args);
                meter.charge(price(&args))?;
                let original = CALLS.get(&(*name, args.len()));
                let original = original.ok_or_else(|| {
                    ExecutionError::function_error(name, "wrong number of arguments")
                })?;
                let mut scope = call.ptx.new_inner_scope();
                for (name, arg) in ARGS.iter().zip(args) {
                    scope.add_variable_as_val(*name, arg.into_owned());
                }
                let value = Cel::resolve_val(original, &scope)?.into_owned();
                Ok(CowVal::Owned(value))
            }),
        );
    }
}

/// The original calls of the priced functions, by name and number of arguments.
static CALLS: LazyLock<BTreeMap<(&'static str, usize), IdedExpr>> = LazyLock::new(|| {
    let named = |name: &str| IdedExpr {
        id: 0,
        expr: Expr::Ident(name.to_owned()),
    };
    let calls = PRICED.iter().flat_map(|(name, _)| {
        (1..=ARGS_MAX).map(move |count| {
            let args = ARGS.iter().take(count).map(|name| named(name));
            let (target, args): (IdedExpr, Vec<IdedExpr>) = match name.split_once('.') {
                Some((namespace, _)) => (named(namespace), args.collect()),
                None => (named(ARGS[0]), args.skip(1).collect()),
            };
            let plain = name.split_once('.').map_or(*name, |(_, plain)| plain);
            let call = IdedExpr {
                id: 0,
                expr: Expr::Call(CallExpr {
                    func_name: plain.to_owned(),
                    target: Some(Box::new(target)),
                    args,
                }),
            };
            ((*name, count), call)
        })
    });
    calls.collect()
});

fn only<'b, 'v>(args: &mut Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let count = args.len();
    let value = args.pop().filter(|_| count == 1);
    value.ok_or_else(|| ExecutionError::invalid_argument_count(1, count))
}

fn both<'b, 'v>(args: &mut Vec<CowVal<'b, 'v>>) -> Result<[CowVal<'b, 'v>; 2], ExecutionError> {
    let args = std::mem::take(args);
    args.try_into()
        .map_err(|args: Vec<_>| ExecutionError::invalid_argument_count(2, args.len()))
}

fn texts(args: &mut Vec<CowVal<'_, '_>>, name: &str) -> Result<[String; 2], ExecutionError> {
    let [one, other] = both(args)?;
    match (text(one.as_ref()), text(other.as_ref())) {
        (Some(one), Some(other)) => Ok([one.to_owned(), other.to_owned()]),
        _ => Err(unsuitable(
            name.trim_start_matches('#'),
            &[one.as_ref(), other.as_ref()],
        )),
    }
}

fn unsuitable(function: &str, args: &[&dyn Val]) -> ExecutionError {
    let types = args.iter().map(|arg| Type::name(arg.get_type()).to_owned());
    ExecutionError::no_such_overload(function, types.collect())
}

fn number(value: &CowVal<'_, '_>) -> u64 {
    let number = value.downcast_ref::<CelInt>().map(|number| *number.inner());
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or_default()
}

fn copy_cost(value: &dyn Val) -> u64 {
    weight(value, COPY_COST)
}

fn read_cost(value: &dyn Val) -> u64 {
    weight(value, READ_COST)
}

fn measured(value: &dyn Val) -> u64 {
    text(value).map_or(0, |text| text.len() as u64)
}

/// The number of values of a loop, and the cost of their copies. For a map only the keys are copied.
fn ranged(range: &dyn Val) -> (u64, u64) {
    if let Some(map) = range.downcast_ref::<CelMap<'_>>() {
        let keys = map.inner().keys();
        let copies = keys
            .map(|key| READ_COST + weight(key.inner(), READ_COST))
            .sum();
        return (map.inner().len() as u64, copies);
    }
    let length = range.as_sizer().map(|sizer| *sizer.size().inner());
    let length = length.and_then(|length| u64::try_from(length).ok());
    (length.unwrap_or_default(), read_cost(range))
}

/// The cost of a comparison. Values of different sizes cost nothing, because they are unequal without a comparison.
fn compared(one: &dyn Val, other: &dyn Val) -> u64 {
    let size = |value: &dyn Val| value.as_sizer().map(|sizer| *sizer.size().inner());
    match (text(one), text(other)) {
        (Some(one), Some(other)) => one.len().min(other.len()) as u64,
        (None, None) if size(one) == size(other) => read_cost(one),
        _ => 0,
    }
}

fn at<'a>(args: &'a [CowVal<'_, '_>], index: usize) -> Option<&'a str> {
    text(args.get(index)?.as_ref())
}

fn copied(args: &[CowVal<'_, '_>]) -> u64 {
    args.iter().map(|arg| copy_cost(arg.as_ref())).sum()
}

fn length(args: &[CowVal<'_, '_>]) -> u64 {
    let list = args
        .first()
        .and_then(|list| list.downcast_ref::<CelList<'_>>());
    list.map_or(0, |list| list.inner().len() as u64)
}

fn distinct(args: &[CowVal<'_, '_>]) -> u64 {
    let reads: u64 = args.iter().map(|arg| read_cost(arg.as_ref())).sum();
    copied(args).saturating_add(reads.saturating_mul(length(args)))
}

fn sorted(args: &[CowVal<'_, '_>]) -> u64 {
    let rounds = u64::from(length(args).max(1).ilog2()) + 1;
    copied(args).saturating_mul(rounds)
}

fn searched(args: &[CowVal<'_, '_>]) -> u64 {
    let (Some(text), Some(part)) = (at(args, 0), at(args, 1)) else {
        return copied(args);
    };
    let (text, part) = (text.len() as u64, part.len() as u64);
    // Both texts are split into characters, and are compared at each position.
    (text + part).saturating_add(text.saturating_mul(part) / 8)
}

fn joined(args: &[CowVal<'_, '_>]) -> u64 {
    let between = at(args, 1).map_or(0, str::len) as u64;
    copied(args).saturating_add(between.saturating_mul(length(args)))
}

fn counted(args: &[CowVal<'_, '_>]) -> u64 {
    args.first().map_or(0, number).saturating_mul(COPY_COST)
}

/// The number of positions at which a part may start in a text.
fn places(text: &str, part: &str) -> u64 {
    match part {
        "" => text.len() as u64 + 1,
        part => text.matches(part).count() as u64,
    }
}

fn replaced(args: &[CowVal<'_, '_>]) -> u64 {
    let (Some(text), Some(part), Some(by)) = (at(args, 0), at(args, 1), at(args, 2)) else {
        return copied(args);
    };
    copied(args).saturating_add(places(text, part).saturating_mul(by.len() as u64))
}

fn split(args: &[CowVal<'_, '_>]) -> u64 {
    let (Some(text), Some(part)) = (at(args, 0), at(args, 1)) else {
        return copied(args);
    };
    copied(args).saturating_add((places(text, part) + 1).saturating_mul(COPY_COST))
}

/// The compiled patterns of an evaluation.
#[derive(Default)]
struct Patterns(Mutex<BTreeMap<String, (Regex, u64)>>);

impl Patterns {
    const MAX: usize = 64;
    /// Maximum bytes of a compiled pattern, the cost of its compilation, and the minimum cost of a byte of text.
    const TIERS: [(usize, u64, u64); 4] = [
        (8 << 10, 20 * TENTHS, 1),
        (64 << 10, 200 * TENTHS, 16),
        (1 << 20, 4_000 * TENTHS, 256),
        (10 << 20, 40_000 * TENTHS, 2_048),
    ];

    /// The compiled pattern; charges the compilation and the use on a text.
    fn get(&self, source: &str, text: &str, meter: &Meter) -> Result<Regex, ExecutionError> {
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (regex, least) = match compiled.get(source) {
            Some(entry) => entry.clone(),
            None => {
                let regex = compile(source, meter)?;
                if compiled.len() >= Self::MAX {
                    compiled.clear();
                }
                compiled.insert(source.to_owned(), regex.clone());
                regex
            }
        };
        let each = (source.len() as u64 / 4).max(least);
        meter.charge((text.len() as u64).saturating_mul(each))?;
        Ok(regex)
    }
}

fn compile(source: &str, meter: &Meter) -> Result<(Regex, u64), ExecutionError> {
    let failed = |error: &regex::Error| ExecutionError::function_error("matches", error);
    let mut failure = None;
    for (bytes, price, each) in Patterns::TIERS {
        meter.charge(price + source.len() as u64)?;
        match RegexBuilder::new(source).size_limit(bytes).build() {
            Ok(regex) => return Ok((regex, each)),
            Err(error @ regex::Error::CompiledTooBig(_)) => failure = Some(failed(&error)),
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(failure.unwrap_or_else(|| ExecutionError::function_error("matches", "no pattern")))
}
