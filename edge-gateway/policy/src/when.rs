//! `when`: a CEL condition over one request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, DYN_TYPE,
    Kind,
};
use cel::common::value::{CowVal, Val};
use cel::{Context, Env, ExecutionError, IdedExpr as Expression, Value};
use countersign_sql::{Effect, Statement};

use crate::Body;
use crate::database::{Asks, Text};
use crate::decode;
use crate::expression::{self, NUMBER, Names, SAME, Uses, WITHIN};
use crate::json::Json;
use crate::judge::Case;
use crate::query::{Found, Pairs};
use crate::rules::Protocol;
use crate::truth::{Truth, Unknown};

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct When {
    source: String,
    expression: Expression,
    uses: Uses,
}

impl When {
    /// Call it on a thread with a large stack.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn compile(source: &str, protocol: Protocol) -> Result<Self, Vec<String>> {
        // The parser is generated code; what it cannot take is the author's to rewrite.
        catch_unwind(|| expression::compile(source, protocol))
            .unwrap_or_else(|_| Err(vec!["it cannot be compiled: write it more simply".to_owned()]))
            .map(|(expression, uses)| Self { source: source.trim().to_owned(), expression, uses })
    }

    /// As its author wrote it.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether the condition holds. Undecidable: what it looks at is not certain, or it cannot be evaluated.
    pub(crate) fn judge(&self, case: &Case<'_>) -> Truth {
        let written = self.evaluate(case, Cow::Borrowed(case.head.path));
        if !self.uses.path || !case.head.path.contains('%') {
            return written;
        }
        // The path decoded once is what the server's router sees: the condition has to hold of both.
        let decoded = decode::percent(case.head.path)
            .and_then(|path| String::from_utf8(path.into_owned()).ok());
        let Some(decoded) = decoded else { return Truth::undecidable("the path is not UTF-8") };
        match (&written, self.evaluate(case, Cow::Owned(decoded))) {
            (Truth::Yes, Truth::Yes) | (Truth::No, Truth::No) | (Truth::Undecidable(_), _) => {
                written
            }
            _ => Truth::undecidable(
                "`when` has one answer for the path as written and another for it decoded",
            ),
        }
    }

    fn evaluate<'v>(&self, case: &'v Case<'_>, path: Cow<'v, str>) -> Truth {
        let mut scope = Scope { context: Context::with_env(ENVIRONMENT.clone()), unknown: None };
        self.bind(case, path, &mut scope);
        let Scope { context, unknown } = scope;
        let result = catch_unwind(AssertUnwindSafe(|| Value::resolve(&self.expression, &context)));
        let why: Cow<'static, str> = match result {
            Ok(Ok(Value::Bool(holds))) => return Truth::of(holds),
            Ok(Ok(_)) => "`when` is neither true nor false".into(),
            Ok(Err(error)) => match (error, &unknown) {
                (_, Some(unknown)) => unknown.why.clone(),
                (ExecutionError::NoSuchKey(name), None) => {
                    format!("`when` asks for {name:?}, which is not there").into()
                }
                (ExecutionError::FunctionError { message, .. }, None) => message.into(),
                (ExecutionError::NoSuchOverload(_), None) => {
                    "`when` compares or combines values of kinds that do not go together".into()
                }
                _ => "`when` cannot be evaluated on this request".into(),
            },
            Err(_) => "`when` cannot be evaluated on this request".into(),
        };
        Truth::Undecidable(Unknown { why, unread: unknown.is_some_and(|unknown| unknown.unread) })
    }

    /// Binds what the expression looks at. What is not certain is not bound: an expression that needs it fails, and
    /// one that does not (`false && …`) is decided without it.
    fn bind<'v>(&self, case: &'v Case<'_>, path: Cow<'v, str>, scope: &mut Scope<'v>) {
        let (uses, head) = (&self.uses, case.head);
        if uses.agent {
            scope.text("agent", head.agent);
        }
        if uses.host {
            scope.text("request.host", head.destination.host());
        }
        if uses.port {
            scope.bind(
                "request.port",
                Ok(Box::new(CelInt::from(i64::from(head.destination.port())))),
            );
        }
        if uses.method {
            match case.method_is_certain() {
                Truth::Yes => scope.text("request.method", head.method.as_str()),
                Truth::Undecidable(unknown) => scope.unknown(unknown),
                Truth::No => scope.lacks("the method is overridden"),
            }
        }
        if uses.path {
            match case.path_is_clear() {
                true => scope.bind("request.path", Ok(Box::new(CelString::from(path)))),
                false => scope.lacks("the request target can be read in two ways"),
            }
        }
        if uses.query.used() {
            let certain = case.path_is_clear();
            let pairs = if certain { pairs(case.query(), &uses.query) } else { None };
            let pairs = pairs.ok_or("a name in the query that can be read in more than one way");
            scope.bind("request.query", pairs);
        }
        if uses.headers.used() {
            let headers = headers(case, &uses.headers);
            scope.bind(
                "request.headers",
                headers.ok_or("a header that is there more than once, or is not text"),
            );
        }
        if uses.body() {
            self.bind_body(case, scope);
        }
        if uses.sql() {
            self.bind_sql(case, scope);
        }
    }

    fn bind_sql<'v>(&self, case: &'v Case<'_>, scope: &mut Scope<'v>) {
        let (uses, access) = (&self.uses, case.access());
        let named = |name: &'v Option<String>, why| name.as_deref().map(text).ok_or(why);
        if uses.database {
            scope.bind("sql.database", named(&access.database, "the database is not clear"));
        }
        if uses.role {
            scope.bind("sql.role", named(&access.role, "the role is not clear"));
        }
        if !uses.effect && !uses.statements {
            return;
        }
        let (effect, statements) = match &access.asks {
            Asks::Connection => (Effect::Connect, Vec::new()),
            Asks::Text(Text { read: Ok(read), .. }) => (read.effect(), read.iter().collect()),
            Asks::Text(Text { read: Err(why), .. }) => {
                let why = format!("the statement cannot be judged: {why}").into();
                return scope.unknown(Unknown { why, unread: false });
            }
            Asks::Unreadable(why) => return scope.lacks(why),
            Asks::Unread => {
                let why = "the statement is not here".into();
                return scope.unknown(Unknown { why, unread: true });
            }
        };
        if uses.effect {
            scope.text("sql.effect", effect.word());
        }
        if uses.statements {
            let names = statements.iter().map(|s| s.tables().len() + s.functions.len() + 8);
            let bound = match uses.nested && names.sum::<usize>() > MOST_NESTED {
                true => {
                    Err("statements with too many names for a comprehension inside another one")
                }
                false => {
                    let values = statements.into_iter().map(statement).collect::<Vec<_>>();
                    Ok(Box::new(CelList::from(values)) as Box<dyn Val + 'v>)
                }
            };
            scope.bind("sql.statements", bound);
        }
    }

    fn bind_body<'v>(&self, case: &'v Case<'_>, scope: &mut Scope<'v>) {
        let uses = &self.uses;
        let Body::Whole(bytes) = case.body else {
            return scope.unknown(Unknown { why: "the body is not here".into(), unread: true });
        };
        if uses.size {
            let size = i64::try_from(bytes.len()).map_err(|_| "a body too large to count");
            scope.bind("body.size", size.map(|size| Box::new(CelInt::from(size)) as Box<dyn Val>));
        }
        let Some(decoded) = case.decoded() else { return };
        if uses.text {
            let text = decoded.as_ref().map_err(|why| why.0);
            let text = text.and_then(|bytes| {
                std::str::from_utf8(bytes).map_err(|_| "a body that is not UTF-8")
            });
            scope.bind(
                "body.text",
                text.map(|text| Box::new(CelString::from(text)) as Box<dyn Val + 'v>),
            );
        }
        if uses.form.used()
            && let Some(form) = case.form()
        {
            let form = form.as_ref().map_err(|why| why.0);
            let doubtful = "a field of the form that is there more than once";
            scope.bind("body.form", form.and_then(|form| pairs(form, &uses.form).ok_or(doubtful)));
        }
        if uses.json
            && let Some(json) = case.json()
        {
            let json = json.as_ref().map_err(|why| why.0);
            let small = json.and_then(|json| match uses.nested && count(json) > MOST_NESTED {
                true => Err("JSON with too many values for a comprehension inside another one"),
                false => Ok(json),
            });
            scope.bind("body.json", small.and_then(|json| self.value(json)));
        }
        if uses.graphql
            && let Some(graphql) = case.graphql()
        {
            let value = |operation: &'v crate::graphql::Operation| {
                let fields = operation.fields.iter().map(|name| text(name)).collect::<Vec<_>>();
                object([
                    ("operation", text(operation.kind)),
                    ("name", text(&operation.name)),
                    ("fields", Box::new(CelList::from(fields)) as Box<dyn Val + 'v>),
                ])
            };
            scope.bind("body.graphql", graphql.as_ref().map(value).map_err(|why| why.0));
        }
    }

    /// A JSON value as CEL has it. A name that differs only by case from one that the expression asks for is that
    /// one to some readers.
    fn value<'v>(&self, json: &'v Json) -> Result<Box<dyn Val + 'v>, &'static str> {
        Ok(match json {
            Json::Null => Box::new(CelNull),
            Json::Flag(flag) => Box::new(CelBool::from(*flag)),
            Json::Whole(number) => Box::new(CelInt::from(*number)),
            Json::Large(number) => Box::new(CelUInt::from(*number)),
            Json::Fraction(number) => Box::new(CelDouble::from(*number)),
            Json::Text(string) => text(string),
            Json::List(items) => Box::new(CelList::from(
                items.iter().map(|item| self.value(item)).collect::<Result<Vec<_>, _>>()?,
            )),
            Json::Object(members) => {
                let mut map = HashMap::with_capacity(members.len());
                for (name, value) in members {
                    let wanted =
                        |field: &String| field != name && decode::fold(field) == decode::fold(name);
                    if self.uses.fields.iter().any(wanted) {
                        return Err(
                            "JSON with a name that differs only by case from one that is asked for",
                        );
                    }
                    map.insert(CelMapKey::from(name.as_str()), self.value(value)?);
                }
                Box::new(CelMap::from(map))
            }
        })
    }
}

/// More values than this are not gone through by a comprehension inside another one.
const MOST_NESTED: usize = 2000;

/// What is bound, and the first thing that is not.
struct Scope<'v> {
    context: Context<'v, 'v>,
    unknown: Option<Unknown>,
}

impl<'v> Scope<'v> {
    /// Names have dots: `body.json` is bound, `body` never is, so that asking for what is not bound is an error
    /// even in `has()`.
    fn bind(&mut self, name: &str, value: Result<Box<dyn Val + 'v>, &'static str>) {
        match value {
            Ok(value) => self.context.add_variable_as_val(name, value),
            Err(why) => self.lacks(why),
        }
    }

    fn text(&mut self, name: &str, value: &'v str) {
        self.bind(name, Ok(text(value)));
    }

    fn lacks(&mut self, why: &'static str) {
        self.unknown(Unknown { why: why.into(), unread: false });
    }

    fn unknown(&mut self, unknown: Unknown) {
        match &mut self.unknown {
            Some(first) => first.unread |= unknown.unread,
            none => *none = Some(unknown),
        }
    }
}

fn text<'v>(value: &'v str) -> Box<dyn Val + 'v> {
    Box::new(CelString::from(value))
}

fn object<'v>(
    members: impl IntoIterator<Item = (&'v str, Box<dyn Val + 'v>)>,
) -> Box<dyn Val + 'v> {
    let members = members.into_iter().map(|(name, value)| (CelMapKey::from(name), value));
    Box::new(CelMap::from(members.collect::<HashMap<_, _>>()))
}

/// A statement as CEL has it: with every one of [`expression::STATEMENT`].
fn statement<'v>(statement: &'v Statement) -> Box<dyn Val + 'v> {
    let texts = |names: Vec<&'v str>| {
        let names = names.into_iter().map(text).collect::<Vec<_>>();
        Box::new(CelList::from(names)) as Box<dyn Val + 'v>
    };
    let all = |names: &'v [String]| texts(names.iter().map(String::as_str).collect());
    object([
        ("effect", text(statement.effect.word())),
        ("functions", all(&statement.functions)),
        ("has_where", Box::new(CelBool::from(statement.has_where)) as Box<dyn Val + 'v>),
        ("kind", text(statement.kind)),
        ("reads", all(&statement.reads)),
        ("tables", texts(statement.tables())),
        ("writes", all(&statement.writes)),
    ])
}

/// The names that are asked for; None when one of them is doubtful.
fn pairs<'v>(pairs: &'v Pairs, names: &Names) -> Option<Box<dyn Val + 'v>> {
    if names.all {
        return Some(object(pairs.clear()?.into_iter().map(|(name, value)| (name, text(value)))));
    }
    let mut members = Vec::new();
    for name in &names.written {
        match pairs.find(name) {
            Found::Absent => {}
            Found::Doubtful => return None,
            Found::One((name, value)) => members.push((name, text(value))),
        }
    }
    Some(object(members))
}

fn headers<'v>(case: &'v Case<'_>, names: &Names) -> Option<Box<dyn Val + 'v>> {
    let headers = case.head.headers;
    let mut members = Vec::new();
    for name in headers.keys() {
        if !names.all && !names.written.iter().any(|written| written == name.as_str()) {
            continue;
        }
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        members.push((name.as_str(), text(value.to_str().ok()?)));
    }
    Some(object(members))
}

fn count(json: &Json) -> usize {
    1 + match json {
        Json::List(items) => items.iter().map(count).sum(),
        Json::Object(members) => members.iter().map(|(_, value)| count(value)).sum(),
        _ => 0,
    }
}

/// Standard functions, and those that compilation puts in. It never changes.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    let added = [
        environment.add_overload(SAME, "same", vec![DYN_TYPE, DYN_TYPE], same),
        environment.add_overload(WITHIN, "within", vec![DYN_TYPE, DYN_TYPE], within),
        environment.add_overload(NUMBER, "number", vec![DYN_TYPE], number),
        environment.add_extension(cel::extensions::strings),
    ];
    debug_assert!(added.iter().all(Result::is_ok), "the names are our own");
    Arc::new(environment)
});

fn same<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [left, right] = arguments.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, 0));
    };
    match comparable(left.as_ref(), right.as_ref()) {
        true => Ok(CowVal::owned(CelBool::from(left.equals(right.as_ref())))),
        false => {
            Err(ExecutionError::function_error("==", "`when` compares values of different kinds"))
        }
    }
}

fn within<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [value, collection] = arguments.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, 0));
    };
    let mut unlike = false;
    if let Some(list) = collection.downcast_ref::<CelList<'_>>() {
        for item in list.inner() {
            if value.equals(item.as_ref()) {
                return Ok(CowVal::owned(CelBool::from(true)));
            }
            unlike |= !comparable(value.as_ref(), item.as_ref());
        }
        return match unlike {
            false => Ok(CowVal::owned(CelBool::from(false))),
            true => Err(ExecutionError::function_error(
                "in",
                "`when` compares values of different kinds",
            )),
        };
    }
    let container = collection.as_container();
    let container = container
        .ok_or_else(|| ExecutionError::function_error("in", "`when` looks into what has no parts"));
    container?.contains(value.as_ref()).map(|found| CowVal::owned(CelBool::from(found)))
}

fn comparable(left: &dyn Val, right: &dyn Val) -> bool {
    let number = |kind| matches!(kind, Kind::Double | Kind::Int | Kind::UInt);
    let (left, right) = (left.get_type().kind(), right.get_type().kind());
    left == right || (number(left) && number(right))
}

/// A number as it is; a text if it is a plain decimal: digits without a leading zero, perhaps a minus and a
/// fraction.
fn number<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (Some(value), None) = (arguments.pop(), arguments.pop()) else {
        return Err(ExecutionError::invalid_argument_count(1, 0));
    };
    let error = || {
        ExecutionError::function_error(
            NUMBER,
            "`when` needs a plain decimal number where there is none",
        )
    };
    if matches!(value.get_type().kind(), Kind::Double | Kind::Int | Kind::UInt) {
        return Ok(value);
    }
    let text = value.downcast_ref::<CelString<'_>>().ok_or_else(error)?.inner();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) =
        digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let all = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all(whole) || (whole.len() > 1 && whole.starts_with('0')) || !fraction.is_none_or(all) {
        return Err(error());
    }
    match fraction {
        None => text
            .parse::<i64>()
            .map(|number| CowVal::owned(CelInt::from(number)))
            .map_err(|_| error()),
        Some(_) => text
            .parse::<f64>()
            .map(|number| CowVal::owned(CelDouble::from(number)))
            .map_err(|_| error()),
    }
}
