//! What is said of channels without a control plane.

use serde_json::Value;

use super::run::Place;

#[test]
fn the_manifest_of_slack_is_a_file_for_slack_and_nothing_else() {
    let place = Place::empty();
    let guide = place.run(&["channel", "guide", "slack"]).ok();
    assert!(guide.contains("channel guide slack --manifest"), "{guide}");
    let read = |arguments: &[&str]| -> Value {
        place.run(&[&["channel", "guide", "slack", "--manifest"], arguments].concat()).json()
    };
    let connected = read(&[]);
    assert_eq!(connected["settings"]["socket_mode_enabled"], true);
    let hook = "https://countersign.example/hooks/team";
    let called = read(&["--hook-url", hook]);
    assert_eq!(called["settings"]["socket_mode_enabled"], false);
    assert_eq!(called["settings"]["interactivity"]["request_url"], hook);

    let teams = place.run(&["channel", "guide", "teams", "--manifest"]);
    teams.fails(2, &["makes no apps from manifests", "countersign channel guide teams"]);
    let plain = ["channel", "guide", "slack", "--manifest", "--hook-url", "http://c.example"];
    place.run(&plain).fails(2, &["https"]);
    assert_eq!(place.run(&["channel", "guide", "--manifest"]).code, Some(2));
}
