//! The chain over JSON-RPC, as a wallet sees it; on a real bitcoind too when
//! `BITCOIND_EXE` names one.

use std::time::Duration;

use lab::chain::subsidy_sats;
use lab::rpc::{RpcClient, RpcClientError};
use lab::{Chain, ChainDriver, RpcAccess};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ADDRESS: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";

/// The in-process chain, and bitcoind where there is one.
async fn backends(dir: &std::path::Path) -> Vec<Chain> {
    let mut chains = vec![Chain::in_process().await.unwrap()];
    if let Some(exe) = lab::bitcoind::exe_from_env() {
        chains.push(Chain::bitcoind(&exe, dir).await.unwrap());
    }
    chains
}

async fn call(chain: &Chain, method: &str, params: Value) -> Value {
    chain.client().call(method, params).await.unwrap()
}

#[tokio::test]
async fn headers_carry_the_fields_that_block_sync_reads_and_genesis_has_no_previous() {
    let dir = tempfile::tempdir().unwrap();
    for chain in backends(dir.path()).await {
        call(&chain, "generatetoaddress", json!([3, ADDRESS])).await;
        let mut previous = Value::Null;
        for height in 0..=3u32 {
            let hash = call(&chain, "getblockhash", json!([height])).await;
            let header = call(&chain, "getblockheader", json!([hash])).await;
            assert_eq!(header["height"], json!(height));
            assert_eq!(header["bits"], json!("207fffff"));
            assert_eq!(header["chainwork"].as_str().unwrap().len(), 64);
            let work = u128::from_str_radix(header["chainwork"].as_str().unwrap(), 16).unwrap();
            assert_eq!(work, 2 * (u128::from(height) + 1));
            for field in ["version", "time", "nonce"] {
                assert!(header[field].is_i64() || header[field].is_u64(), "{field}");
            }
            if height == 0 {
                assert!(header.get("previousblockhash").is_none());
            } else {
                assert_eq!(header["previousblockhash"], previous);
            }
            let block = call(&chain, "getblock", json!([hash, 0])).await;
            let block: bitcoin::Block =
                bitcoin::consensus::encode::deserialize_hex(block.as_str().unwrap()).unwrap();
            assert_eq!(json!(block.block_hash()), hash);
            assert_eq!(json!(block.header.merkle_root), header["merkleroot"]);
            if height > 0 {
                let reward = block.txdata[0].output[0].value.to_sat();
                assert_eq!(reward, subsidy_sats(height));
            }
            previous = hash;
        }
        let info = call(&chain, "getblockchaininfo", json!([])).await;
        assert_eq!(info["blocks"], json!(3));
        assert_eq!(info["bestblockhash"], previous);
        chain.shutdown().await;
    }
}

#[tokio::test]
async fn refusals_have_bitcoinds_codes() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = "11".repeat(32);
    for chain in backends(dir.path()).await {
        let cases = [
            ("getblockheader", json!([nowhere]), -5),
            ("getblock", json!([nowhere, 0]), -5),
            ("getblockhash", json!([1_000]), -8),
            ("getmempoolentry", json!([nowhere]), -5),
            ("getrawtransaction", json!([nowhere]), -5),
            ("sendrawtransaction", json!(["00"]), -22),
            ("generatetoaddress", json!([1, "nonsense"]), -5),
            ("nosuchmethod", json!([]), -32601),
        ];
        for (method, params, code) in cases {
            let refused = chain.client().call(method, params).await.unwrap_err();
            assert_eq!(refused.code(), Some(code), "{method}: {refused}");
        }
        let nothing = call(&chain, "gettxout", json!([nowhere, 0, false])).await;
        assert!(nothing.is_null());
        chain.shutdown().await;
    }
}

#[tokio::test]
async fn a_rollback_and_a_longer_branch_reorganise_and_stale_headers_stay() {
    let dir = tempfile::tempdir().unwrap();
    for chain in backends(dir.path()).await {
        let driver = ChainDriver::connect(chain.rpc().clone()).await.unwrap();
        let address = lab::chain::regtest_address(ADDRESS).unwrap();
        let old = driver.generate(4, &address).await.unwrap();
        driver.rollback(2).await.unwrap();
        assert_eq!(driver.height().await.unwrap(), 2);
        let new = driver.generate(3, &address).await.unwrap();
        assert_ne!(old[2], new[0]);
        assert_eq!(driver.height().await.unwrap(), 5);
        let stale = call(&chain, "getblockheader", json!([old[3]])).await;
        assert_eq!(stale["confirmations"], json!(-1));
        assert_eq!(stale["height"], json!(4));
        chain.shutdown().await;
    }
}

#[tokio::test]
async fn a_wrong_password_gets_http_401_and_no_json() {
    let chain = Chain::in_process().await.unwrap();
    let access = RpcAccess {
        password: "guess".to_owned(),
        ..chain.rpc().clone()
    };
    let refused = RpcClient::new(access)
        .call("getblockcount", json!([]))
        .await
        .unwrap_err();
    match refused {
        RpcClientError::BadAnswer { status, .. } => assert!(status.contains("401"), "{status}"),
        other => panic!("{other}"),
    }
    chain.shutdown().await;
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let chain = Chain::in_process().await.unwrap();
    let access = chain.rpc().clone();
    let mut stream = tokio::net::TcpStream::connect((access.host.as_str(), access.port))
        .await
        .unwrap();
    use base64::Engine;
    let pair = format!("{}:{}", access.user, access.password);
    let basic = base64::engine::general_purpose::STANDARD.encode(pair);
    for id in 0..3 {
        let body = json!({"method": "getblockcount", "params": [], "id": id}).to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {basic}\r\n\
             Connection: keep-alive\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let read = stream.read_buf(&mut answer);
            let read = tokio::time::timeout(Duration::from_secs(5), read).await;
            assert_ne!(read.unwrap().unwrap(), 0, "the server closed");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.to_lowercase().contains("content-length:"),
            "{answer}"
        );
        assert!(answer.contains(&format!("\"id\":{id}")), "{answer}");
    }
    chain.shutdown().await;
    let gone = tokio::net::TcpStream::connect((access.host.as_str(), access.port)).await;
    assert!(gone.is_err(), "the port must be free after a shutdown");
}

#[tokio::test]
async fn waiting_for_a_transaction_that_never_comes_ends_at_its_bound() {
    let chain = Chain::in_process().await.unwrap();
    let txid: bitcoin::Txid = "22".repeat(32).parse().unwrap();
    let waited = chain
        .driver()
        .wait_for_mempool(&txid, Duration::from_millis(50))
        .await;
    assert!(matches!(waited, Err(lab::LabError::NotInMempool { .. })));
    chain.shutdown().await;
}

#[tokio::test]
async fn a_bitcoind_that_is_not_there_is_named_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("no-bitcoind");
    let Err(refused) = Chain::bitcoind(&exe, dir.path()).await else {
        panic!("it cannot have started");
    };
    assert!(refused.to_string().contains("BITCOIND_EXE"), "{refused}");
}
