//! What policies see of Git's smart HTTP.

use crate::support::{Ask, ask, captured, said};

const ZERO: &str = "0000000000000000000000000000000000000000";
const ONE: &str = "78a52b4b724b056d0164d678a5d27f667060fa71";
const TWO: &str = "7593460498a1e19877c40ba8a5f9bbe1268e5da0";

fn pkt(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}

/// A push as Git writes it: the first command carries what the client can do.
fn push(commands: &[(&str, &str, &str)], can: &str, rest: &str) -> Ask {
    let mut body = String::new();
    for (at, (old, new, name)) in commands.iter().enumerate() {
        let said = if at == 0 { format!("\0 {can}") } else { String::new() };
        body += &pkt(&format!("{old} {new} {name}{said}"));
    }
    receive(format!("{body}0000{rest}"))
}

fn receive(body: impl Into<Vec<u8>>) -> Ask {
    ask("POST", "https://a.example/acme/prod.git/git-receive-pack")
        .header("content-type", "application/x-git-receive-pack-request")
        .bytes(body)
}

#[test]
fn b_14_a_push_is_its_refs() {
    let commands = [
        (ONE, TWO, "refs/heads/main"),
        (ZERO, TWO, "refs/heads/agent/fix"),
        (ONE, ZERO, "refs/tags/v1"),
    ];
    let request = push(&commands, "report-status-v2 atomic object-format=sha1", "PACK…");
    for (when, answer) in [
        ("git.service == 'git-receive-pack'", "yes"),
        ("git.refs.size() == 3", "yes"),
        ("git.refs.exists(r, r.ref == 'refs/heads/main' && r.kind == 'update')", "yes"),
        (
            "git.refs.exists(r, r.kind == 'create' && r.old == '0000000000000000000000000000000000000000')",
            "yes",
        ),
        ("git.refs.exists(r, r.kind == 'delete' && r.ref.startsWith('refs/tags/'))", "yes"),
        ("git.refs.all(r, r.ref.startsWith('refs/heads/agent/'))", "no"),
        (
            "git.refs[1].ref == 'refs/heads/agent/fix' && git.refs[1].new == '7593460498a1e19877c40ba8a5f9bbe1268e5da0'",
            "yes",
        ),
        ("git.atomic", "yes"),
        ("git.options.size() == 0", "yes"),
    ] {
        assert_eq!(said(when, &request), answer, "{when}");
    }
    let options = push(&commands[1..2], "report-status push-options", "000eci.skip=1\n0000PACK");
    assert_eq!(said("git.options == ['ci.skip=1'] && !git.atomic", &options), "yes");
}

#[test]
fn b_14_whether_history_is_overwritten_is_not_known_of_an_update() {
    let update = push(&[(ONE, TWO, "refs/heads/main")], "", "PACK");
    let create = push(&[(ZERO, TWO, "refs/heads/main")], "", "PACK");
    let delete = push(&[(ONE, ZERO, "refs/heads/main")], "", "");
    for when in ["git.refs.exists(r, r.forced)", "!git.refs.exists(r, r.forced)"] {
        assert_eq!(said(when, &update), "unknown", "{when}");
    }
    assert_eq!(said("git.refs.exists(r, r.forced)", &create), "no");
    assert_eq!(said("git.refs.exists(r, r.forced)", &delete), "no");
    // Neither old nor new: to a receiver it is a deletion.
    let neither = push(&[(ZERO, ZERO, "refs/heads/main")], "", "");
    assert_eq!(said("git.refs[0].kind == 'delete'", &neither), "yes");
}

#[test]
fn b_14_reads_are_not_pushes() {
    let refs = |service: &str| {
        ask("GET", &format!("https://a.example/acme/prod.git/info/refs?service={service}"))
    };
    let fetch = ask("POST", "https://a.example/acme/prod.git/git-upload-pack")
        .header("content-type", "application/x-git-upload-pack-request")
        .bytes("0032want 78a52b4b724b056d0164d678a5d27f667060fa71\n00000009done\n");
    let reads = "git.service == 'git-upload-pack'";
    assert_eq!(said(reads, &refs("git-upload-pack")), "yes");
    assert_eq!(said(reads, &fetch), "yes");
    assert_eq!(said(reads, &refs("git-receive-pack")), "no");
    assert_eq!(said(reads, &push(&[(ONE, TWO, "refs/heads/main")], "", "PACK")), "no");
    // What is no push has no refs, so `all` is not true of it.
    assert_eq!(said("git.refs.all(r, r.kind == 'create')", &fetch), "unknown");
    assert_eq!(said("git.refs.all(r, r.kind == 'create')", &refs("git-receive-pack")), "unknown");
    for other in [
        refs("git-upload-archive"),
        ask("GET", "https://a.example/acme/prod.git/info/refs"),
        ask(
            "GET",
            "https://a.example/a/info/refs?service=git-upload-pack&service=git-receive-pack",
        ),
        ask("POST", "https://a.example/acme/prod.git/info/refs?service=git-upload-pack"),
        ask("POST", "https://a.example/acme/prod.git/git-upload-pack"),
        ask("POST", "https://a.example/acme/prod.git/git-receive-pack")
            .header("content-type", "application/x-git-upload-pack-request"),
        ask("POST", "https://a.example/acme/prod.git/git-upload-pack?service=git-receive-pack")
            .header("content-type", "application/x-git-upload-pack-request"),
    ] {
        assert_eq!(said(reads, &other), "unknown", "{other:?}");
    }
}

#[test]
fn b_14_a_push_that_git_would_not_write_is_not_read() {
    let any = "git.refs == git.refs";
    assert_eq!(said(any, &receive("0000")), "yes");
    let main = format!("{ONE} {TWO} refs/heads/main\0 report-status");
    let other = format!("{ONE} {TWO} refs/heads/other");
    let with = |line: &str, rest: &str| receive(format!("{}{rest}", pkt(line)));
    assert_eq!(said(any, &with(&main, "0000PACK")), "yes");
    for (request, why) in [
        (receive(""), "nothing"),
        (with(&main, ""), "no end of the commands"),
        (with(&main, "0001PACK"), "a delimiter ends the commands for Git"),
        (with(&main, "0000JUNK"), "something that is no pack"),
        (with(&main, &format!("{}0000PACK", pkt(&main))), "one ref twice"),
        (
            with(&main, &format!("{}0000PACK", pkt(&format!("{other}\0 atomic")))),
            "capabilities again",
        ),
        (with(&other, "0000PACK"), "no capabilities"),
        (receive("0000PACK"), "a pack for nothing"),
        (with(&main.replace("refs/heads/main", "HEAD"), "0000PACK"), "no ref"),
        (with(&main.replace("main", "../main"), "0000PACK"), "a ref with dots"),
        (with(&main.replace("main", "ma in"), "0000PACK"), "a ref with a space"),
        (with(&main.replace("main", "main.lock"), "0000PACK"), "a lock"),
        (with(&main.replace("main", "main@{1}"), "0000PACK"), "a revision"),
        (with(&main.to_uppercase(), "0000PACK"), "capitals in ids"),
        (with(&main.replace(TWO, &format!("{TWO}00")), "0000PACK"), "two kinds of ids"),
        (with(&format!("push-cert\0{main}"), "0000PACK"), "a signed push"),
        (receive(format!("00zz{main}0000")), "a length that is none"),
        (receive(format!("ffff{main}0000")), "a length that is not there"),
    ] {
        assert_eq!(said(any, &request), "unknown", "{why}");
    }
    let mut bytes = pkt(&main).into_bytes();
    bytes.extend([b"0009x\xff\xff\xff\xff", &b"0000"[..]].concat());
    assert_eq!(said(any, &receive(bytes)), "unknown", "a command that is not UTF-8");
}

#[test]
fn b_14_a_rule_for_some_branches_lets_nothing_else_through() {
    let when = "git.refs.all(r, r.kind != 'delete' && r.ref.startsWith('refs/heads/agent/'))";
    let agent = (ZERO, TWO, "refs/heads/agent/fix");
    assert_eq!(said(when, &push(&[agent], "", "PACK")), "yes");
    assert_eq!(said(when, &push(&[agent, (ONE, TWO, "refs/heads/main")], "", "PACK")), "no");
    assert_eq!(said(when, &push(&[(ONE, ZERO, "refs/heads/agent/fix")], "", "")), "no");
    let gzipped = push(&[agent], "", "PACK").header("content-encoding", "gzip");
    assert_eq!(said(when, &gzipped), "unknown");
}

#[test]
fn b_14_what_git_itself_pushes_is_read() {
    let mut seen = 0;
    for (name, request) in captured("git") {
        let expected: &[(&str, &str)] = match name.as_str() {
            "create and update" => &[
                ("git.refs.map(r, r.kind) == ['update', 'create']", "yes"),
                ("git.refs[0].ref == 'refs/heads/main'", "yes"),
                ("git.refs.all(r, r.kind != 'delete')", "yes"),
            ],
            "delete a branch" => {
                &[("git.refs.all(r, r.kind == 'delete' && r.ref == 'refs/heads/old')", "yes")]
            }
            "force a branch" => {
                &[("git.refs.exists(r, r.forced)", "unknown"), ("git.refs.size() == 1", "yes")]
            }
            "delete and force with an option" => &[
                ("git.options.size() == 1", "yes"),
                ("git.refs.exists(r, r.kind == 'delete')", "yes"),
                ("git.refs.exists(r, r.kind == 'update')", "yes"),
            ],
            other => panic!("{other} is not known here"),
        };
        for (when, answer) in expected {
            assert_eq!(said(when, &request), *answer, "{name}: {when}");
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
}
