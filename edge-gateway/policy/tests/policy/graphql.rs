//! What policies see of GraphQL: every operation, by every field.

use crate::support::{Ask, ask, said};

fn post(body: &str) -> Ask {
    ask("POST", "https://a.example/graphql").json(body)
}

fn document(text: &str) -> Ask {
    post(&serde_json::json!({ "query": text }).to_string())
}

const READS: &str = "graphql.operations.all(o, o.type == 'query')";
const DELETES: &str = "graphql.operations.exists(o, 'deleteRepo' in o.fields)";

#[test]
fn b_9_every_operation_of_a_batch_counts() {
    let batch = post(
        r#"[{"query":"{viewer{id}}"},{"query":"mutation M{a:deleteRepo(id:1){id} b:deleteRepo(id:2){id}}"}]"#,
    );
    assert_eq!(said(READS, &batch), "no");
    assert_eq!(said(DELETES, &batch), "yes");
    assert_eq!(said("graphql.operations.size() == 2", &batch), "yes");
    assert_eq!(said("graphql.operations[1].name == 'M'", &batch), "yes");
    assert_eq!(said("body.graphql.operation == 'query'", &batch), "unknown");
    assert_eq!(said(READS, &post(r#"[{"query":"{a}"},{"query":"{b}"}]"#)), "yes");
    for body in ["[]", r#"[{"query":"{a}"},{}]"#, r#"[[{"query":"{a}"}]]"#] {
        assert_eq!(said(READS, &post(body)), "unknown", "{body}");
    }
}

#[test]
fn b_9_aliases_hide_nothing_and_repeat_what_they_repeat() {
    let aliased =
        document("mutation { viewer: deleteRepo(id: 1) { id } b: deleteRepo(id: 2) { id } }");
    assert_eq!(said(DELETES, &aliased), "yes");
    let twice = "graphql.operations[0].fields == ['deleteRepo', 'deleteRepo']";
    assert_eq!(said(twice, &aliased), "yes");
    assert_eq!(said("'viewer' in graphql.operations[0].fields", &aliased), "no");
}

#[test]
fn b_9_what_a_directive_may_leave_out_is_there() {
    for text in [
        "mutation ($x: Boolean!) { deleteRepo(id: 1) @include(if: $x) { id } }",
        "mutation { deleteRepo(id: 1) @skip(if: true) { id } }",
        "mutation { ...F @skip(if: true) } fragment F on Mutation { deleteRepo(id: 1) { id } }",
        "mutation { ... on Mutation @include(if: false) { deleteRepo(id: 1) { id } } }",
    ] {
        assert_eq!(said(DELETES, &document(text)), "yes", "{text}");
    }
}

#[test]
fn b_9_fragments_are_put_in() {
    let nested = "mutation { ...A } fragment A on Mutation { ...B other } fragment B on Mutation { x: deleteRepo(id: 1) { id } }";
    assert_eq!(said(DELETES, &document(nested)), "yes");
    assert_eq!(
        said("graphql.operations[0].fields == ['deleteRepo', 'other']", &document(nested)),
        "yes"
    );
    assert_eq!(said("body.graphql.operation == 'mutation'", &document(nested)), "unknown");
    let bomb: String = (0..16)
        .map(|n| format!("fragment F{n} on Query {{ ...F{m} ...F{m} }} ", m = n + 1))
        .collect();
    for text in [
        "query { ...A } fragment A on Query { ...A }".to_owned(),
        "query { ...A } fragment A on Query { ...B } fragment B on Query { ...A }".to_owned(),
        "query { ...Missing }".to_owned(),
        "query { ...A } fragment A on Query { a } fragment A on Query { b }".to_owned(),
        format!("query {{ ...F0 }} {bomb} fragment F16 on Query {{ a }}"),
        format!("query {{ {} }}", "a ".repeat(2000)),
    ] {
        assert_eq!(said(READS, &document(&text)), "unknown", "{text}");
    }
}

#[test]
fn b_9_of_several_operations_all_count_and_one_is_picked() {
    let several = |name: &str| {
        let query = "query A { a } mutation B { deleteRepo(id: 1) { id } }";
        post(&serde_json::json!({ "query": query, "operationName": name }).to_string())
    };
    for name in ["A", "B"] {
        assert_eq!(said(READS, &several(name)), "no", "{name}");
        assert_eq!(said(DELETES, &several(name)), "yes", "{name}");
    }
    assert_eq!(said(READS, &several("C")), "unknown");
    assert_eq!(said(READS, &document("query A { a } query B { b }")), "unknown", "none is picked");
    let twice = r#"{"query":"query A {a} query A {b}","operationName":"A"}"#;
    assert_eq!(said(READS, &post(twice)), "unknown");
    let unnamed = r#"{"query":"{a} query A {b}","operationName":"A"}"#;
    assert_eq!(said(READS, &post(unnamed)), "unknown");
}

#[test]
fn b_9_a_document_that_is_not_there_is_not_read() {
    let hash = "f1b1e7ca2b2b0d2a2e5a0b9d2d64d2d3b5c1d8f0a5b1c1d8f0a5b1c1d8f0a5b1";
    for body in [
        format!(r#"{{"extensions":{{"persistedQuery":{{"version":1,"sha256Hash":"{hash}"}}}}}}"#),
        format!(
            r#"{{"query":"{{a}}","extensions":{{"persistedQuery":{{"version":1,"sha256Hash":"{hash}"}}}}}}"#
        ),
        r#"{"query":"{a}","documentId":"abc"}"#.to_owned(),
        r#"{"query":"{a}","id":"abc"}"#.to_owned(),
        r#"{"query":"{a}","Query":"{b}"}"#.to_owned(),
        r#"{"doc_id":"1","variables":{}}"#.to_owned(),
        r#"{"query":null}"#.to_owned(),
        r#"{"query":"type A { a: Int }"}"#.to_owned(),
        r#"{"query":"{a"}"#.to_owned(),
        r#"{"query":""}"#.to_owned(),
        r#"{"query":"{a}","variables":"x"}"#.to_owned(),
    ] {
        assert_eq!(said(READS, &post(&body)), "unknown", "{body}");
        assert_eq!(said("body.graphql.operation == 'query'", &post(&body)), "unknown", "{body}");
    }
    // The hash of the document that is there.
    let body = serde_json::json!({
        "query": "{a}",
        "extensions": { "persistedQuery": { "version": 1, "sha256Hash": sha256("{a}") } },
    });
    assert_eq!(said(READS, &post(&body.to_string())), "yes");
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn b_9_the_query_counts_where_it_says_what_is_run() {
    let get = |query: &str| ask("GET", &format!("https://a.example/graphql?{query}"));
    assert_eq!(said(READS, &get("query=%7Bviewer%7Bid%7D%7D")), "yes");
    assert_eq!(said(READS, &get("query=mutation%7BdeleteRepo(id:1)%7Bid%7D%7D")), "no");
    let named = "query=query+A%7Ba%7Dquery+B%7Bb%7D&operationName=A&variables=%7B%22x%22:1%7D";
    assert_eq!(said(READS, &get(named)), "yes");
    for query in [
        "",
        "query=%7Ba%7D&query=%7Bb%7D",
        "query=%7Ba%7D&Query=mutation%7Bb%7D",
        "query=%7Ba%7D&variables=x",
        "query=%7Ba%7D&documentId=1",
        "extensions=%7B%22persistedQuery%22:%7B%22version%22:1,%22sha256Hash%22:%22ab%22%7D%7D",
    ] {
        assert_eq!(said(READS, &get(query)), "unknown", "{query}");
    }
    assert_eq!(said(READS, &get("query=%7Ba%7D").json(r#"{"query":"{a}"}"#)), "unknown");
    // A server that prefers what stands in the URL would run another document than the body's.
    for query in ["query=mutation%7BdeleteRepo%7D", "operationName=B", "extensions=%7B%7D", "id=7"]
    {
        let both = ask("POST", &format!("https://a.example/graphql?{query}"));
        let both = both.json(r#"{"query":"{a}"}"#);
        assert_eq!(said(READS, &both), "unknown", "{query}");
        assert_eq!(said("body.graphql.operation == 'query'", &both), "unknown", "{query}");
    }
    let tagged = ask("POST", "https://a.example/graphql?trace=7").json(r#"{"query":"{a}"}"#);
    assert_eq!(said(READS, &tagged), "yes");
}
