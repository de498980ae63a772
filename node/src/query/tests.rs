//! Results as `map-filter-reduce` 3.2.2 gives them.

use serde_json::json;

use super::*;

const MESSAGES: &str = r#"[
    {"key":"%a","timestamp":5,"value":{"author":"@x","sequence":1,"timestamp":3,
        "content":{"type":"post","text":"one","mentions":[{"link":"@y"}]}}},
    {"key":"%b","timestamp":6,"value":{"author":"@y","sequence":1,"timestamp":9,
        "content":{"type":"vote","vote":{"link":"%a","value":1}}}},
    {"key":"%c","timestamp":7,"value":{"author":"@x","sequence":2,"timestamp":4,
        "content":{"type":"post","text":"two","root":"%a","channel":null}}},
    {"key":"%d","timestamp":8,"value":{"author":"@z","sequence":1,"timestamp":2,"content":"secret.box"}},
    {"key":"%e","timestamp":9,"value":{"author":"@y","sequence":2,"timestamp":10,
        "content":{"type":"about","about":"@y","name":"why","n":1.5}}}
]"#;

const CASES: &[(&str, &str)] = &[
    (
        r#"[{"$filter":{"value":{"content":{"type":"post"}}}}]"#,
        r#"[{"key":"%a","timestamp":5,"value":{"author":"@x","sequence":1,"timestamp":3,"content":{"type":"post","text":"one","mentions":[{"link":"@y"}]}}},{"key":"%c","timestamp":7,"value":{"author":"@x","sequence":2,"timestamp":4,"content":{"type":"post","text":"two","root":"%a","channel":null}}}]"#,
    ),
    (
        r#"[{"$filter":{"value":{"content":{"type":"post"},"timestamp":{"$gt":3}}}},{"$map":"key"}]"#,
        r#"["%c"]"#,
    ),
    (
        r#"[{"$filter":{"timestamp":{"$gte":6,"$lt":8}}},{"$map":{"k":"key","t":["value","content","type"],"value":{"s":["value","sequence"]}}}]"#,
        r#"[{"k":"%b","t":"vote","value":{"s":1}},{"k":"%c","t":"post","value":{"s":2}}]"#,
    ),
    (r#"[{"$map":["value","content","mentions",-1,"link"]}]"#, r#"["@y"]"#),
    (
        r#"[{"$map":{"value":true,"n":["value","content","mentions","length"]}}]"#,
        r#"[{"value":{"author":"@x","sequence":1,"timestamp":3,"content":{"type":"post","text":"one","mentions":[{"link":"@y"}]}},"n":1},{"value":{"author":"@y","sequence":1,"timestamp":9,"content":{"type":"vote","vote":{"link":"%a","value":1}}}},{"value":{"author":"@x","sequence":2,"timestamp":4,"content":{"type":"post","text":"two","root":"%a","channel":null}}},{"value":{"author":"@z","sequence":1,"timestamp":2,"content":"secret.box"}},{"value":{"author":"@y","sequence":2,"timestamp":10,"content":{"type":"about","about":"@y","name":"why","n":1.5}}}]"#,
    ),
    (r#"[{"$reduce":{"$count":true}}]"#, r#"[5]"#),
    (r#"[{"$reduce":{"$sum":["value","sequence"]}}]"#, r#"[7]"#),
    (
        r#"[{"$reduce":{"author":["value","author"],"n":{"$count":true}}}]"#,
        r#"[{"author":"@x","n":2},{"author":"@y","n":2},{"author":"@z","n":1}]"#,
    ),
    (
        r#"[{"$reduce":{"type":["value","content","type"],"newest":{"$max":"timestamp"},"oldest":{"$min":["value","timestamp"]},"keys":{"$collect":"key"}}}]"#,
        r#"[{"type":"about","newest":9,"oldest":10,"keys":["%e"]},{"type":"post","newest":7,"oldest":3,"keys":["%a","%c"]},{"type":"vote","newest":6,"oldest":9,"keys":["%b"]},{"newest":8,"oldest":2,"keys":["%d"]}]"#,
    ),
    (r#"[{"$reduce":{"$collect":"key"}}]"#, r#"["%a","%b","%c","%d","%e"]"#),
    (r#"[{"$reduce":{"n":{"$count":true},"m":{"$max":"timestamp"}}}]"#, r#"[5,9]"#),
    (
        r#"[{"$filter":{"value":{"author":{"$prefix":"@"},"content":{"$is":"string"}}}},{"$map":"key"}]"#,
        r#"["%d"]"#,
    ),
    (r#"[{"$filter":{"value":{"author":{"$in":["@x","@z"]}}}},{"$map":"key"}]"#, r#"["%a","%c","%d"]"#),
    (r#"[{"$filter":{"value":{"content":{"channel":{"$truthy":true}}}}}]"#, r#"[]"#),
    (r#"[{"$filter":{"value":{"content":{"text":{"$not":true}}}}},{"$map":"key"}]"#, r#"["%b","%d","%e"]"#),
    (
        r#"[{"$filter":{"value":{"content":{"root":{"$ne":"%a"}}}}},{"$map":"key"}]"#,
        r#"["%a","%b","%d","%e"]"#,
    ),
    (
        r#"[{"$filter":{"value":{"content":{"n":{"$type":true}}}}},{"$map":"key"}]"#,
        r#"["%a","%b","%c","%d","%e"]"#,
    ),
    (r#"[{"$map":["value","sequence",{"$mod":2}]}]"#, r#"[1,1,1]"#),
    (r#"[{"$filter":{"value":{"content":{"mentions":[{"link":"@y"}]}}}},{"$map":"key"}]"#, r#"["%a"]"#),
    (r#"[{"$sort":[["value","timestamp"]]},{"$map":"key"}]"#, r#"["%d","%a","%c","%b","%e"]"#),
    (r#"[{"$sort":[["value","author"],["timestamp"]]},{"$map":"key"}]"#, r#"["%a","%c","%b","%e","%d"]"#),
    (r#"[null,{"$filter":{"key":{"$gt":"%b"}}},{"$map":"key"}]"#, r#"["%c","%d","%e"]"#),
    (
        r#"[{"$map":{"t":["value","content","type"]}},{"$reduce":{"t":"t","n":{"$count":true}}},{"$filter":{"n":{"$gt":1}}}]"#,
        r#"[{"t":"post","n":2}]"#,
    ),
    (
        r#"[{"$filter":{"value":{"content":{"vote":{"value":{"$eq":1}}}}}},{"$map":["value","content","vote"]}]"#,
        r#"[{"link":"%a","value":1}]"#,
    ),
    (
        r#"[{"$filter":{"value":{"sequence":{"$int":true}}}},{"$map":{"none":"nothing"}}]"#,
        r#"[{},{},{},{},{}]"#,
    ),
];

fn run(query: &Value) -> Result<Vec<Value>, QueryError> {
    let messages: Vec<Value> = serde_json::from_str(MESSAGES).unwrap();
    let (mut run, mut out) = (Query::parse(Some(query))?.run(), Vec::new());
    for message in messages {
        run.push(message, &mut out)?;
    }
    run.finish(&mut out)?;
    Ok(out)
}

#[test]
fn queries_give_what_they_give_in_javascript() {
    for (query, expected) in CASES {
        let out = run(&serde_json::from_str(query).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&out).unwrap(), *expected, "{query}");
        assert_eq!(run(&Value::from(*query)).unwrap(), out, "as text");
    }
}

#[test]
fn what_means_nothing_is_said() {
    let unknown = |query: Value| matches!(run(&query), Err(QueryError::Unknown(_)));
    assert!(unknown(json!([{ "$fliter": {} }])));
    assert!(unknown(json!([{ "$filter": { "key": { "$near": 1 } } }])));
    assert!(unknown(json!([{ "$map": null }])));
    assert!(unknown(json!([7])));
    assert_eq!(run(&json!(7)), Err(QueryError::NotAList));
    assert_eq!(run(&json!("[")), Err(QueryError::NotAList));
    let deep = (0..100).fold(json!(true), |inner, _| json!([inner]));
    assert!(unknown(json!([{ "$map": deep }])));
}

#[test]
fn what_a_step_keeps_is_bounded() {
    for query in [
        json!([{ "$sort": [["n"]] }]),
        json!([{ "$reduce": { "n": "n" } }]),
        json!([{ "$reduce": { "$collect": "n" } }]),
    ] {
        let (mut run, mut out) = (Query::parse(Some(&query)).unwrap().run(), Vec::new());
        let first = (0..=MAX_KEPT).find(|n| run.push(json!({ "n": n }), &mut out).is_err());
        assert_eq!(first, Some(MAX_KEPT), "{query}");
    }
}

#[test]
fn no_query_keeps_everything_and_an_object_is_a_filter() {
    assert_eq!(run(&Value::Null).unwrap().len(), 5);
    assert_eq!(run(&json!({ "value": { "author": "@z" } })).unwrap().len(), 1);
}
