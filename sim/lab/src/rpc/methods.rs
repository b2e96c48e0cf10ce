//! The methods, as ldk-node 0.7.1 and lightning-block-sync 0.2 read them.
//!
//! Names, parameters and codes are bitcoind's (`src/rpc/*.cpp`); of the answers
//! only the fields that those two use are certain to be there.

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde_json::{Value, json};

use crate::chain::{FEE_FLOOR_SAT_PER_VB, RegtestChain, TxError, regtest_address};

/// RPC_METHOD_NOT_FOUND.
pub(super) const CODE_UNKNOWN_METHOD: i64 = -32601;
/// RPC_INVALID_REQUEST.
pub(super) const CODE_INVALID_REQUEST: i64 = -32600;
/// RPC_TYPE_ERROR: a parameter of the wrong type.
const CODE_TYPE: i64 = -3;
/// RPC_INVALID_ADDRESS_OR_KEY: also "no such block or transaction".
const CODE_NOT_FOUND: i64 = -5;
/// RPC_INVALID_PARAMETER.
const CODE_PARAMETER: i64 = -8;

/// What `estimatesmartfee` answers, sat per virtual byte. Twice the floor: at
/// the floor itself a wallet that rounds its weight down is refused.
const ESTIMATE_SAT_PER_VB: u64 = 2 * FEE_FLOOR_SAT_PER_VB;

/// Satoshi per bitcoin, and bytes per kilobyte: bitcoind states fees in BTC/kvB.
const SATS_PER_BTC: f64 = 100_000_000.0;
const BYTES_PER_KVB: f64 = 1_000.0;

/// A refusal with bitcoind's code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
}

type Answer = Result<Value, RpcError>;

fn refuse<T>(code: i64, message: impl ToString) -> Result<T, RpcError> {
    Err(RpcError {
        code,
        message: message.to_string(),
    })
}

/// Answers one call.
pub(super) fn call(chain: &RegtestChain, method: &str, params: &[Value]) -> Answer {
    match method {
        "getblockchaininfo" => Ok(chain_info(chain)),
        "getblockcount" => Ok(json!(chain.tip().height)),
        "getblockheader" => block_header(chain, params),
        "getblock" => block(chain, params),
        "getblockhash" => block_hash(chain, params),
        "gettxout" => tx_out(chain, params),
        "sendrawtransaction" => send_raw_transaction(chain, params),
        "estimatesmartfee" => Ok(json!({
            "feerate": btc_per_kvb(ESTIMATE_SAT_PER_VB),
            "blocks": params.first().and_then(Value::as_u64).unwrap_or(2),
        })),
        "getmempoolinfo" => Ok(mempool_info(chain)),
        "getrawmempool" => Ok(json!(chain.mempool())),
        "getmempoolentry" => mempool_entry(chain, params),
        "getrawtransaction" => raw_transaction(chain, params),
        "generatetoaddress" => generate_to_address(chain, params),
        "rollback" => rollback(chain, params),
        "" => refuse(CODE_INVALID_REQUEST, "Missing method"),
        _ => refuse(CODE_UNKNOWN_METHOD, "Method not found"),
    }
}

fn btc_per_kvb(sat_per_vb: u64) -> f64 {
    sat_per_vb as f64 * BYTES_PER_KVB / SATS_PER_BTC
}

fn text<'a>(params: &'a [Value], index: usize, name: &str) -> Result<&'a str, RpcError> {
    match params.get(index).and_then(Value::as_str) {
        Some(text) => Ok(text),
        None => refuse(CODE_TYPE, format!("parameter {name} must be a string")),
    }
}

fn number(params: &[Value], index: usize, name: &str) -> Result<u32, RpcError> {
    let given = params.get(index).and_then(Value::as_u64);
    match given.and_then(|n| u32::try_from(n).ok()) {
        Some(number) => Ok(number),
        None => refuse(CODE_TYPE, format!("parameter {name} must be a number")),
    }
}

fn hash<T: std::str::FromStr>(params: &[Value], name: &str) -> Result<T, RpcError> {
    let given = text(params, 0, name)?;
    match given.parse() {
        Ok(hash) => Ok(hash),
        Err(_) => refuse(
            CODE_PARAMETER,
            format!("{name} must be of length 64, in hex"),
        ),
    }
}

fn chain_info(chain: &RegtestChain) -> Value {
    let tip = chain.tip();
    json!({
        "chain": "regtest",
        "blocks": tip.height,
        "headers": tip.height,
        "bestblockhash": tip.hash,
        "initialblockdownload": false,
        "pruned": false,
    })
}

fn block_header(chain: &RegtestChain, params: &[Value]) -> Answer {
    let wanted: BlockHash = hash(params, "blockhash")?;
    let Some(info) = chain.header(&wanted) else {
        return refuse(CODE_NOT_FOUND, "Block not found");
    };
    let header = &info.header;
    // -1 is what bitcoind says of a block off the best chain.
    let confirmations = if info.in_best_chain {
        i64::from(chain.tip().height) - i64::from(info.height) + 1
    } else {
        -1
    };
    let mut answer = json!({
        "hash": wanted,
        "confirmations": confirmations,
        "height": info.height,
        "version": header.version.to_consensus(),
        "merkleroot": header.merkle_root,
        "time": header.time,
        "nonce": header.nonce,
        "bits": format!("{:08x}", header.bits.to_consensus()),
        "chainwork": format!("{:064x}", info.chain_work),
    });
    // Genesis has no such field, and lightning-block-sync counts on that.
    if info.height > 0 {
        answer["previousblockhash"] = json!(header.prev_blockhash);
    }
    Ok(answer)
}

fn block(chain: &RegtestChain, params: &[Value]) -> Answer {
    let wanted: BlockHash = hash(params, "blockhash")?;
    // bitcoind's default is 1, a JSON object, which nobody here asks for.
    if params.get(1).and_then(Value::as_u64) != Some(0) {
        return refuse(CODE_PARAMETER, "the lab serves verbosity 0 only: pass 0");
    }
    match chain.block(&wanted) {
        Some(block) => Ok(json!(serialize_hex(&*block))),
        None => refuse(CODE_NOT_FOUND, "Block not found"),
    }
}

fn block_hash(chain: &RegtestChain, params: &[Value]) -> Answer {
    match chain.block_hash(number(params, 0, "height")?) {
        Some(hash) => Ok(json!(hash)),
        None => refuse(CODE_PARAMETER, "Block height out of range"),
    }
}

fn tx_out(chain: &RegtestChain, params: &[Value]) -> Answer {
    let outpoint = OutPoint {
        txid: hash(params, "txid")?,
        vout: number(params, 1, "n")?,
    };
    let with_mempool = params.get(2).and_then(Value::as_bool).unwrap_or(true);
    let Some(found) = chain.unspent(&outpoint, with_mempool) else {
        return Ok(Value::Null);
    };
    let tip = chain.tip();
    let confirmations = (tip.height + 1).saturating_sub(found.height);
    Ok(json!({
        "bestblock": tip.hash,
        "confirmations": confirmations,
        "value": found.txout.value.to_btc(),
        "scriptPubKey": {"hex": found.txout.script_pubkey.to_hex_string()},
        "coinbase": found.coinbase,
    }))
}

fn send_raw_transaction(chain: &RegtestChain, params: &[Value]) -> Answer {
    let submitted = deserialize_hex::<Transaction>(text(params, 0, "hexstring")?)
        .map_err(|e| TxError::Undecodable {
            reason: e.to_string(),
        })
        .and_then(|tx| chain.submit(tx));
    match submitted {
        Ok(txid) => Ok(json!(txid)),
        Err(error) => refuse(error.rpc_code(), error),
    }
}

fn mempool_info(chain: &RegtestChain) -> Value {
    let floor = btc_per_kvb(FEE_FLOOR_SAT_PER_VB);
    json!({
        "loaded": true,
        "size": chain.mempool().len(),
        "mempoolminfee": floor,
        "minrelaytxfee": floor,
    })
}

fn mempool_entry(chain: &RegtestChain, params: &[Value]) -> Answer {
    let wanted: Txid = hash(params, "txid")?;
    match chain.mempool_entry(&wanted) {
        Some(entry) => Ok(json!({
            "time": entry.time,
            "height": entry.height,
            "vsize": entry.vsize,
            "weight": entry.weight,
            "fees": {"base": entry.fee_sats as f64 / SATS_PER_BTC},
        })),
        None => refuse(CODE_NOT_FOUND, "Transaction not in mempool"),
    }
}

fn raw_transaction(chain: &RegtestChain, params: &[Value]) -> Answer {
    let wanted: Txid = hash(params, "txid")?;
    match chain.mempool_transaction(&wanted) {
        Some(tx) => Ok(json!(serialize_hex(&tx))),
        None => refuse(
            CODE_NOT_FOUND,
            "No such mempool transaction. Blockchain transactions are not indexed.",
        ),
    }
}

fn generate_to_address(chain: &RegtestChain, params: &[Value]) -> Answer {
    let count = number(params, 0, "nblocks")?;
    let address = match regtest_address(text(params, 1, "address")?) {
        Ok(address) => address,
        Err(error) => return refuse(CODE_NOT_FOUND, error),
    };
    match chain.generate(count, &address) {
        Ok(hashes) => Ok(json!(hashes)),
        Err(error) => refuse(CODE_PARAMETER, error),
    }
}

fn rollback(chain: &RegtestChain, params: &[Value]) -> Answer {
    match chain.rollback(number(params, 0, "nblocks")?) {
        Ok(tip) => Ok(json!(tip.hash)),
        Err(error) => refuse(CODE_PARAMETER, error),
    }
}
