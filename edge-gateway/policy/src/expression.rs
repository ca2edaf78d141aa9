//! CEL source to an expression that is safe to evaluate: what it may name, how deep and long it may be, and where
//! a comparison between kinds is an error rather than "not equal".
//!
//! Two things differ from plain CEL, both so that an author's mistake or a loose upstream opens nothing:
//!
//! * Values of forms, queries and headers are text. Where one is compared or calculated with a number, it is read
//!   as a plain decimal (`number()`); anything else (`1e4`, ` 5`, `0x10`, `007`) is an error, so undecidable.
//! * `==`, `!=` and `in` between values of different kinds are errors: CEL would say that `"100"` is not `100`,
//!   and an upstream may not agree. Comparing with a written `null` is always possible.

use cel::IdedExpr as Expression;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::parser::Parser;
use countersign_sql::{Effect, KINDS};

use crate::rules::Protocol;

use crate::shape::{self, Shape};

/// What an expression looks at.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    pub(crate) agent: bool,
    pub(crate) method: bool,
    pub(crate) host: bool,
    pub(crate) port: bool,
    pub(crate) path: bool,
    pub(crate) query: Names,
    pub(crate) headers: Names,
    pub(crate) form: Names,
    pub(crate) json: Names,
    pub(crate) graphql: bool,
    pub(crate) text: bool,
    pub(crate) size: bool,
    /// Names of [`shape::NAMES`].
    pub(crate) decoded: Vec<&'static str>,
    /// Fields of `grpc.message`.
    pub(crate) message: Vec<String>,
    pub(crate) database: bool,
    pub(crate) role: bool,
    pub(crate) effect: bool,
    pub(crate) statements: bool,
    /// Every field name written anywhere in it.
    pub(crate) fields: Vec<String>,
    /// Whether a comprehension runs inside another one.
    pub(crate) nested: bool,
}

/// Which names of a collection an expression looks at.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) written: Vec<String>,
    /// It looks at the collection itself, so at every name.
    pub(crate) all: bool,
}

impl Names {
    pub(crate) fn used(&self) -> bool {
        self.all || !self.written.is_empty()
    }
}

impl Uses {
    pub(crate) fn body(&self) -> bool {
        let plain = self.form.used() || self.json.used() || self.graphql || self.text || self.size;
        plain || !self.decoded.is_empty()
    }

    pub(crate) fn sql(&self) -> bool {
        self.database || self.role || self.effect || self.statements
    }
}

/// The most bytes of source.
const LONGEST: usize = 4096;
/// How deep the expression may be; evaluation recurses.
const DEEPEST: usize = 48;
const DEEPEST_BRACKETS: u16 = 24;

/// The names of functions that compilation puts in; no source can write them.
pub(crate) const SAME: &str = "@same";
pub(crate) const WITHIN: &str = "@within";
pub(crate) const NUMBER: &str = "number";

const FUNCTIONS: [&str; 9] =
    ["bool", "bytes", "double", "dyn", "int", "number", "size", "string", "uint"];
const MORE_FUNCTIONS: [&str; 4] = ["duration", "matches", "timestamp", "type"];
const MEMBERS: [&str; 9] = [
    "charAt",
    "contains",
    "endsWith",
    "indexOf",
    "lowerAscii",
    "matches",
    "size",
    "startsWith",
    "upperAscii",
];
const TYPES: [&str; 9] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];
const REQUEST: [&str; 6] = ["headers", "host", "method", "path", "port", "query"];
/// Headers that the edge takes off or writes itself: it and the control plane would not judge the same request.
const UNJUDGED: [&str; 12] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const BODY: [&str; 7] = ["form", "graphql", "json", "mail", "multipart", "size", "text"];
/// What there is of a request to a database.
const REQUEST_OF_DATABASE: [&str; 2] = ["host", "port"];

/// Parses and rewrites. Call it on a thread with a large stack: the parser recurses as the source does.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn compile(source: &str, protocol: Protocol) -> Result<(Expression, Uses), Vec<String>> {
    if source.len() > LONGEST {
        return Err(vec![format!("it is longer than {LONGEST} bytes")]);
    }
    let parsed = Parser::new().max_recursion_depth(DEEPEST_BRACKETS).parse(source);
    let mut expression = parsed.map_err(|errors| {
        let said = errors.errors.iter().map(|e| format!("column {}: {}", e.pos.1, e.msg.trim()));
        let mut said: Vec<String> = said.collect();
        said.dedup();
        said
    })?;
    if depth(&expression, 0) > DEEPEST {
        return Err(vec![format!("it is nested more than {DEEPEST} deep: split the rule")]);
    }
    let mut compiler = Compiler { protocol, ..Compiler::default() };
    let kind = compiler.walk(&mut expression);
    if matches!(kind, Kind::Number | Kind::Text | Kind::Null) {
        compiler.wrong("it is not a question with a yes or a no for an answer");
    }
    compiler.errors.dedup();
    if compiler.errors.is_empty() { Ok((expression, compiler.uses)) } else { Err(compiler.errors) }
}

/// How deep an expression is, no further than is of interest.
fn depth(expression: &Expression, above: usize) -> usize {
    if above > DEEPEST {
        return above;
    }
    let under = |inner: &Expression| depth(inner, above + 1);
    match &expression.expr {
        Expr::Call(call) => {
            let target = call.target.as_deref().map_or(above, under);
            call.args.iter().map(under).fold(target, usize::max)
        }
        Expr::Comprehension(c) => {
            let parts = [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result];
            parts.into_iter().map(under).fold(above, usize::max)
        }
        Expr::List(list) => list.elements.iter().map(under).fold(above, usize::max),
        Expr::Map(map) => map.entries.iter().fold(above, |most, entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => most.max(under(&entry.key)).max(under(&entry.value)),
            EntryExpr::StructField(field) => most.max(under(&field.value)),
        }),
        Expr::Select(select) => under(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => above,
    }
}

/// What is known of a value before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Null,
    Number,
    Other,
    /// A value of a form, a query or a header.
    Text,
}

impl Kind {
    fn of(shape: Shape) -> Self {
        match shape {
            Shape::Flag => Self::Flag,
            Shape::Number => Self::Number,
            Shape::Written => Self::Text,
            Shape::Any | Shape::Fields | Shape::List(_) | Shape::Record(_) | Shape::Text => {
                Self::Other
            }
        }
    }
}

#[derive(Default)]
struct Compiler {
    protocol: Protocol,
    uses: Uses,
    errors: Vec<String>,
    /// Names that comprehensions have bound.
    bound: Vec<String>,
    /// What of them is known to be of a kind, inner ones last.
    elements: Vec<(String, Option<Shape>)>,
    comprehensions: usize,
}

impl Compiler {
    fn wrong(&mut self, message: impl Into<String>) {
        self.errors.push(message.into());
    }

    fn walk(&mut self, expression: &mut Expression) -> Kind {
        if let Some(kind) = self.variable(expression) {
            return kind;
        }
        let shape = self.shape(expression);
        match &mut expression.expr {
            Expr::Call(_) => match self.call(expression) {
                Kind::Other => shape.map_or(Kind::Other, Kind::of),
                known => known,
            },
            Expr::Comprehension(comprehension) => {
                let element = self.shape(&comprehension.iter_range).and_then(Shape::element);
                let element = element.filter(|_| comprehension.iter_var2.is_none());
                let elements = self.elements.len();
                self.walk(&mut comprehension.iter_range);
                self.walk(&mut comprehension.accu_init);
                self.comprehensions += 1;
                self.uses.nested |= self.comprehensions > 1;
                if self.comprehensions > 2 {
                    self.wrong("it has more than two comprehensions inside one another");
                }
                let bound = self.bound.len();
                self.bound.push(comprehension.accu_var.clone());
                let named = [Some(&comprehension.iter_var), comprehension.iter_var2.as_ref()];
                for name in named.into_iter().flatten() {
                    if shape::ROOTS.contains(&name.as_str()) {
                        self.errors
                            .push(format!("`{name}` is taken: give the element another name"));
                    }
                    self.bound.push(name.clone());
                    self.elements.push((name.clone(), element));
                }
                self.walk(&mut comprehension.loop_cond);
                self.walk(&mut comprehension.loop_step);
                self.walk(&mut comprehension.result);
                self.bound.truncate(bound);
                self.elements.truncate(elements);
                self.comprehensions -= 1;
                Kind::Other
            }
            Expr::Ident(name) => {
                if !self.bound.contains(name) && !TYPES.contains(&name.as_str()) {
                    let name = name.clone();
                    let seen = match self.protocol {
                        Protocol::Http => shape::OF_HTTP.join(", "),
                        Protocol::Postgres => shape::OF_DATABASES.join(", "),
                    };
                    self.wrong(format!("there is no `{name}`: it can look at {seen}"));
                }
                Kind::Other
            }
            Expr::List(list) => {
                for element in &mut list.elements {
                    self.walk(element);
                }
                Kind::Other
            }
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Kind::Flag,
                LiteralValue::Null => Kind::Null,
                LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => {
                    Kind::Number
                }
                LiteralValue::Bytes(_) | LiteralValue::String(_) => Kind::Other,
            },
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.walk(&mut entry.key);
                        self.walk(&mut entry.value);
                    }
                }
                Kind::Other
            }
            Expr::Select(select) => {
                self.uses.fields.push(select.field.clone());
                if let Some(of) = self.shape(&select.operand)
                    && of.member(&select.field).is_none()
                {
                    let (field, of) = (&select.field, of.word());
                    self.errors.push(format!("there is no `{field}` in {of}"));
                }
                if self.is_message(&select.operand) {
                    self.uses.message.push(select.field.clone());
                }
                self.walk(&mut select.operand);
                if select.test { Kind::Flag } else { shape.map_or(Kind::Other, Kind::of) }
            }
            Expr::Struct(_) | Expr::Unspecified => {
                self.wrong("it makes a value of a type that there is not");
                Kind::Other
            }
        }
    }

    /// Notes a variable that the expression is, from `agent` to `request.query["name"]`; None if it is none.
    fn variable(&mut self, expression: &Expression) -> Option<Kind> {
        if let Expr::Ident(name) = &expression.expr
            && !self.bound.contains(name)
        {
            match name.as_str() {
                "agent" => self.uses.agent = true,
                "body" => self
                    .wrong(format!("`body` alone is nothing: write body.{}", BODY.join(", body."))),
                "request" => self.wrong(format!(
                    "`request` alone is nothing: write request.{}",
                    REQUEST.join(", .")
                )),
                root if shape::ROOTS.contains(&root) => {
                    let below: Vec<&str> = shape::below(root).collect();
                    self.wrong(format!("`{root}` alone is nothing: write {}", below.join(", ")));
                }
                _ => return None,
            }
            return Some(Kind::Other);
        }
        if let Some((root, field, test)) = self.field(expression) {
            if test {
                self.wrong(format!(
                    "has({root}.{field}) cannot be asked: what is not there is undecidable"
                ));
            }
            return Some(self.whole(root, field));
        }
        let (collection, name, test) = match &expression.expr {
            Expr::Select(select) => (&*select.operand, select.field.as_str(), select.test),
            Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
                (&call.args[0], string(&call.args[1])?, false)
            }
            _ => return None,
        };
        let (root, field, false) = self.field(collection)? else { return None };
        if self.is_foreign(root, field) {
            return Some(Kind::Other);
        }
        let name = name.to_owned();
        let collection = format!("{root}.{field}");
        self.named(&collection, name)?;
        Some(match collection.as_str() {
            _ if test => Kind::Flag,
            "body.json" => Kind::Other,
            _ => Kind::Text,
        })
    }

    /// `request.x` or `body.x`, and whether it is in a `has()`.
    fn field<'e>(&self, expression: &'e Expression) -> Option<(&'static str, &'e str, bool)> {
        let Expr::Select(select) = &expression.expr else { return None };
        let Expr::Ident(root) = &select.operand.expr else { return None };
        if self.bound.contains(root) {
            return None;
        }
        let root = shape::ROOTS.into_iter().find(|known| known == root)?;
        Some((root, &select.field, select.test))
    }

    /// What is known of the value of an expression that is a name, an element, or a part of one.
    fn shape(&self, expression: &Expression) -> Option<Shape> {
        match &expression.expr {
            Expr::Ident(name) => {
                self.elements.iter().rev().find(|(bound, _)| bound == name).and_then(|it| it.1)
            }
            Expr::Select(select) if !select.test => match self.field(expression) {
                Some((root, field, _)) => shape::name(root, field).map(|(_, shape)| *shape),
                None => self.shape(&select.operand)?.member(&select.field),
            },
            Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
                let of = self.shape(&call.args[0])?;
                match string(&call.args[1]) {
                    Some(name) => of.member(name),
                    None => of.element(),
                }
            }
            _ => None,
        }
    }

    fn is_message(&self, expression: &Expression) -> bool {
        self.field(expression) == Some(("grpc", "message", false))
    }

    /// One name of a collection; None when it is none whose names are told apart.
    fn named(&mut self, collection: &str, name: String) -> Option<()> {
        let names = match collection {
            "body.form" => &mut self.uses.form,
            "body.json" => {
                self.uses.fields.push(name.clone());
                &mut self.uses.json
            }
            "request.headers" => {
                if UNJUDGED.contains(&name.to_ascii_lowercase().as_str()) {
                    self.errors.push(format!(
                        "the header {name:?} is the gateway's own and no part of what is judged"
                    ));
                } else if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    let lower = name.to_ascii_lowercase();
                    self.wrong(format!("names of headers are in lower case here: write {lower:?}"));
                }
                &mut self.uses.headers
            }
            "request.query" => &mut self.uses.query,
            _ => return None,
        };
        names.written.push(name);
        Some(())
    }

    /// Whether there is no such thing where this protocol is spoken, which is said.
    fn is_foreign(&mut self, root: &str, field: &str) -> bool {
        let why = match (self.protocol, root) {
            (Protocol::Http, "sql") => {
                "`sql` is looked at in rules with protocol = \"postgres\"".to_owned()
            }
            (Protocol::Postgres, root) if !shape::OF_DATABASES.contains(&root) => {
                format!("a statement is looked at as sql.statements, not as a {root}")
            }
            (Protocol::Postgres, "request") if !REQUEST_OF_DATABASE.contains(&field) => {
                let known = REQUEST_OF_DATABASE.join(" and request.");
                format!("a request to a database has request.{known} alone")
            }
            _ => return false,
        };
        self.wrong(why);
        true
    }

    /// `request.x` or `body.x` itself.
    fn whole(&mut self, root: &str, field: &str) -> Kind {
        if self.is_foreign(root, field) {
            return Kind::Other;
        }
        let uses = &mut self.uses;
        match (root, field) {
            ("sql", "database") => uses.database = true,
            ("sql", "effect") => uses.effect = true,
            ("sql", "role") => uses.role = true,
            ("sql", "statements") => uses.statements = true,
            ("body", "form") => uses.form.all = true,
            ("body", "graphql") => uses.graphql = true,
            ("body", "json") => uses.json.all = true,
            ("body", "size") => {
                uses.size = true;
                return Kind::Number;
            }
            ("body", "text") => uses.text = true,
            ("request", "headers") => {
                self.wrong("headers are looked at one by one: request.headers['name'], 'name' in request.headers");
            }
            ("request", "host") => uses.host = true,
            ("request", "method") => uses.method = true,
            ("request", "path") => uses.path = true,
            ("request", "port") => {
                uses.port = true;
                return Kind::Number;
            }
            ("request", "query") => uses.query.all = true,
            _ if shape::name(root, field).is_some() => {
                if let Some((name, shape)) = shape::name(root, field) {
                    if !uses.decoded.contains(name) {
                        uses.decoded.push(name);
                    }
                    return Kind::of(*shape);
                }
            }
            ("body", _) => self
                .wrong(format!("there is no body.{field}: there is body.{}", BODY.join(", body."))),
            ("request", _) => {
                self.wrong(format!(
                    "there is no request.{field}: there is request.{}",
                    REQUEST.join(", request.")
                ));
            }
            ("agent", _) => self.wrong("`agent` is the agent's name and has no fields"),
            (root, _) => {
                let below: Vec<&str> = shape::below(root).collect();
                self.wrong(format!("there is no {root}.{field}: there is {}", below.join(", ")));
            }
        }
        Kind::Other
    }

    /// One of `sql.statements`.
    fn is_statement(&self, expression: &Expression) -> bool {
        self.shape(expression) == Some(shape::STATEMENT)
    }

    /// Whether a value is a kind or an effect, which can only be one of a few words: what they are called, and they.
    fn vocabulary(&self, expression: &Expression) -> Option<(&'static str, Vec<&'static str>)> {
        // What is undecidable is not compared with anything.
        let effects = || Effect::ALL.into_iter().filter(|e| *e != Effect::Undecidable);
        if matches!(self.field(expression), Some(("sql", "effect", false))) {
            return Some(("an effect", effects().map(Effect::word).collect()));
        }
        let Expr::Select(select) = &expression.expr else { return None };
        if select.test || !self.is_statement(&select.operand) {
            return None;
        }
        match select.field.as_str() {
            "effect" => Some(("an effect", effects().map(Effect::word).collect())),
            "kind" => Some(("a kind", KINDS.to_vec())),
            _ => None,
        }
    }

    /// Finds comparisons with words that a kind or an effect never is.
    fn check_words(&mut self, call: &CallExpr) {
        let [left, right] = call.args.as_slice() else { return };
        let (value, words): (_, Vec<&Expression>) = match call.func_name.as_str() {
            operators::EQUALS | operators::NOT_EQUALS if string(left).is_some() => {
                (right, vec![left])
            }
            operators::EQUALS | operators::NOT_EQUALS => (left, vec![right]),
            operators::IN => match &right.expr {
                Expr::List(list) => (left, list.elements.iter().collect()),
                _ => return,
            },
            _ => return,
        };
        let Some((what, known)) = self.vocabulary(value) else { return };
        for word in words.into_iter().filter_map(string) {
            if word == Effect::Undecidable.word() {
                self.errors.push(
                    "what is undecidable equals nothing: every approve and deny rule is about it already, and no other one"
                        .to_owned(),
                );
            } else if !known.contains(&word) {
                let known = known.join(", ");
                self.errors
                    .push(format!("{word:?} is not {what} of a statement: there is {known}"));
            }
        }
    }

    fn call(&mut self, expression: &mut Expression) -> Kind {
        let Expr::Call(call) = &mut expression.expr else { return Kind::Other };
        self.check_words(call);
        if call.func_name == operators::INDEX
            && let [_, index] = call.args.as_slice()
            && let Some(name) = string(index)
        {
            self.uses.fields.push(name.to_owned());
        }
        let shapes: Vec<_> = call.args.iter().map(|argument| self.shape(argument)).collect();
        // `"name" in request.query` looks at that name only.
        if call.func_name == operators::IN
            && let [name, collection] = call.args.as_slice()
            && let Some(name) = string(name)
        {
            let name = name.to_owned();
            self.uses.fields.push(name.clone());
            // JSON may be a list, in which it would be looked for.
            if let Some((root, field, false)) = self.field(collection)
                && (root, field) != ("body", "json")
                && self.named(&format!("{root}.{field}"), name).is_some()
            {
                return Kind::Flag;
            }
        }
        if let Some(target) = &mut call.target {
            self.walk(target);
        }
        let kinds: Vec<Kind> = call.args.iter_mut().map(|argument| self.walk(argument)).collect();
        self.known(call);
        if COMPARES.contains(&call.func_name.as_str()) {
            self.alike(&kinds, &shapes);
        }
        match (call.func_name.as_str(), kinds.as_slice()) {
            (operators::ADD, [left, right])
            | (operators::SUBSTRACT, [left, right])
            | (operators::MULTIPLY, [left, right])
            | (operators::DIVIDE, [left, right])
            | (operators::MODULO, [left, right]) => {
                let plus = call.func_name == operators::ADD;
                let number = [left, right].contains(&&Kind::Number)
                    || (!plus && [left, right].contains(&&Kind::Text));
                if number {
                    numbers(call, &kinds);
                    return Kind::Number;
                }
                Kind::Other
            }
            (
                operators::GREATER
                | operators::GREATER_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS,
                [_, _],
            ) => {
                self.compare(call, &kinds);
                Kind::Flag
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                if *left == Kind::Null || *right == Kind::Null {
                    return Kind::Flag;
                }
                self.compare(call, &kinds);
                let negated = call.func_name == operators::NOT_EQUALS;
                let arguments = std::mem::take(&mut call.args);
                expression.expr = same(arguments, negated);
                Kind::Flag
            }
            (operators::IN, [given, _]) => {
                let arguments = std::mem::take(&mut call.args);
                expression.expr = self.within(arguments, *given);
                Kind::Flag
            }
            (operators::NEGATE, [kind]) => {
                if *kind == Kind::Text {
                    numbers(call, &[Kind::Text]);
                }
                Kind::Number
            }
            ("double" | "int" | "number" | "size" | "uint" | "indexOf", _) => Kind::Number,
            (operators::CONDITIONAL, [_, left, right]) if left == right => *left,
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                if [left, right]
                    .iter()
                    .any(|kind| matches!(kind, Kind::Null | Kind::Number | Kind::Text))
                {
                    self.wrong("&& and || stand between questions, not between values");
                }
                Kind::Flag
            }
            _ => Kind::Other,
        }
    }

    /// What can never be compared is said before it has to be, request by request.
    fn alike(&mut self, kinds: &[Kind], shapes: &[Option<Shape>]) {
        for (kind, shape) in kinds.iter().rev().zip(shapes) {
            let Some(shape) = shape else { continue };
            let other = match (shape, kind) {
                (Shape::Any | Shape::Number | Shape::Written, Kind::Number) => continue,
                (_, Kind::Number) => "a number",
                (Shape::Any | Shape::Flag, Kind::Flag) => continue,
                (_, Kind::Flag) => "true or false",
                _ => continue,
            };
            self.errors.push(format!("it compares {} with {other}", shape.word()));
        }
    }

    /// Reads text as a number where it stands beside one.
    fn compare(&mut self, call: &mut CallExpr, kinds: &[Kind]) {
        if kinds.contains(&Kind::Text) && kinds.contains(&Kind::Flag) {
            self.wrong("values of forms, queries and headers are text: compare with \"true\", not with true");
        }
        if kinds.contains(&Kind::Number) {
            numbers(call, kinds);
        }
    }

    /// `x in [a, b]` as `x == a || x == b`, so that kinds are compared as they are there; any other `in` by a
    /// function that does.
    fn within(&mut self, arguments: Vec<Expression>, given: Kind) -> Expr {
        let mut arguments = arguments.into_iter();
        let (Some(value), Some(collection)) = (arguments.next(), arguments.next()) else {
            return Expr::Unspecified;
        };
        let Expr::List(list) = collection.expr else {
            return call(WITHIN, vec![value, collection]);
        };
        if list.elements.len() > 64 {
            self.wrong("a list in it has more than 64 elements");
        }
        let mut any = Expr::Literal(LiteralValue::Boolean(false.into()));
        for element in list.elements {
            let number = matches!(
                element.expr,
                Expr::Literal(
                    LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)
                )
            );
            let value = value.clone();
            let value = if number && given == Kind::Text {
                plain(call(NUMBER, vec![value]))
            } else {
                value
            };
            let one = same(vec![value, element], false);
            any = call(operators::LOGICAL_OR, vec![plain(one), plain(any)]);
        }
        any
    }

    /// Whether there is such a function.
    fn known(&mut self, call: &CallExpr) {
        let name = call.func_name.as_str();
        let operator = name.starts_with(['_', '@', '!', '-']);
        let known = match call.target {
            None => FUNCTIONS.contains(&name) || MORE_FUNCTIONS.contains(&name),
            Some(_) => MEMBERS.contains(&name) || (name.starts_with("get") && name.len() > 3),
        };
        if !operator && !known {
            self.wrong(format!("there is no function `{name}`"));
        }
        if name == "matches" {
            let pattern = call.args.last().and_then(string);
            match pattern.map(regex_works) {
                Some(true) => {}
                Some(false) => self.wrong("the pattern of matches() is not a regular expression"),
                None => self.wrong("the pattern of matches() is a text in quotes"),
            }
        }
    }
}

const COMPARES: [&str; 6] = [
    operators::EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::NOT_EQUALS,
];

fn regex_works(pattern: &str) -> bool {
    let argument = |text: &str| plain(Expr::Literal(LiteralValue::String(text.to_owned().into())));
    let probe = call("matches", vec![argument(""), argument(pattern)]);
    cel::Value::resolve(&plain(probe), &cel::Context::default()).is_ok()
}

/// The text of a literal.
fn string(expression: &Expression) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Wraps every argument that is text in `number()`.
fn numbers(call_: &mut CallExpr, kinds: &[Kind]) {
    for (argument, kind) in call_.args.iter_mut().zip(kinds) {
        if *kind == Kind::Text {
            let text = std::mem::take(argument);
            *argument = plain(call(NUMBER, vec![text]));
        }
    }
}

fn same(arguments: Vec<Expression>, negated: bool) -> Expr {
    let same = call(SAME, arguments);
    if negated { call(operators::LOGICAL_NOT, vec![plain(same)]) } else { same }
}

fn call(name: &str, args: Vec<Expression>) -> Expr {
    Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args })
}

fn plain(expr: Expr) -> Expression {
    Expression { id: 0, expr }
}
