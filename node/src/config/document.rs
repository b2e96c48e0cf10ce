//! The text of a fresh `freehold.toml`: every key, commented out, with its doc.
//!
//! A test checks that it names every key there is and that each line, when
//! uncommented, is taken.

use super::POCKET;

/// What `freehold init` writes unless told otherwise: the network filled in, and the model
/// that travels in the binary, so that a fresh node answers.
pub fn fresh(network: &str) -> String {
    with_models(network, &[POCKET.to_owned()])
}

/// The same with these models, by their paths.
pub fn with_models(network: &str, paths: &[String]) -> String {
    let example = "#[[models]]\n#path = \"pocket\"\n";
    let sections: String = paths
        .iter()
        .map(|path| format!("[[models]]\npath = {}\n", toml::Value::from(path.as_str())))
        .collect();
    let sections = match paths {
        [] => example.to_owned(),
        _ => sections,
    };
    TEMPLATE
        .replace("{network}", network)
        .replace("{models}", &sections)
}

const TEMPLATE: &str = r##"# Settings of a freehold node. A line that begins with `#` shows a default or an
# example; take the `#` away to change it. Amounts are in sat, with up to three
# decimals (msat): 12, 0.25. An unknown key is an error.

# Whose coins: "regtest" (a private chain, see `freehold lab up`), "signet"
# (test coins, worth nothing), "mainnet" (real money; nothing else turns it on).
network = "{network}"

# What this node may be used for: "client" (buys), "host" (sells inference),
# "validator" (re-checks answers by recomputation). `freehold profile` says what
# suits this machine. Nothing that is not named here is switched on.
#roles = ["client"]

# Nostr relays that listings are read from and published to; at least three.
#relays = ["wss://relay.damus.io", "wss://nos.lol", "wss://relay.primal.net"]

# Where hosts and validators listen, as libp2p multiaddrs. A pure client does not listen.
#listen = ["/ip4/0.0.0.0/tcp/9748", "/ip4/0.0.0.0/udp/9748/quic-v1"]

# Addresses to list in place of those, for a machine behind a router, as multiaddrs;
# this node's own /p2p/ID is added to them.
#announce = []

# Peers to begin with, as multiaddrs that end in /p2p/ID; listings bring the rest.
#bootstrap = []

# Models on this machine: to sell, to check with, or to use without paying.
# `path` is a GGUF file, or "pocket" for the small model in the binary. `name` is
# shown in the listing (default: the file's own). Prices are sat per million
# tokens (default: those of [host]). An embedding model is paid for its input and
# by the item. One [[models]] section for each.
{models}#name = "pocket"
#input_price = 50
#output_price = 200
#cached_input_price = 12.5
#item_price = 0

# A model that another server runs (Ollama, llama-server, vLLM: anything that speaks
# the OpenAI dialect). `runner` is its base address, mostly ending in /v1: https, or
# http to this machine or its own network. `runner_model` is the model's name there,
# `runner_key` the server's key: "env:NAME" takes it from an environment variable,
# "file:PATH" from a file (relative to the data folder), anything else is the key.
# `tokenizer` is the GGUF file of that very model: tokens are then counted exactly,
# and its digest is listed. Without it a piece of text that the server sends is one
# token, and the listing stands for the name alone. `context` is what the server is
# set to (Ollama cuts longer prompts off without a word); default: as the file says.
# Answers of a runner cannot be computed again, and the listing says so.
#[[models]]
#runner = "http://127.0.0.1:11434/v1"
#runner_model = "qwen3:8b"
#runner_key = "env:RUNNER_KEY"
#tokenizer = "qwen3-8b-q4_k_m.gguf"
#context = 8192

# Where the wallet learns about the chain. One of
#   kind = "esplora", url = "https://…"
#   kind = "electrum", url = "ssl://…:50002"
#   kind = "bitcoind_rpc", host, port, user, password
# Signet and mainnet have a public Esplora server as default, which sees your
# addresses; regtest has none. While it is away, or without one, the node runs without
# its wallet: models of this machine answer, nothing is bought or sold.
#[chain]
#kind = "esplora"
#url = "https://mempool.space/signet/api"

[lightning]
# Addresses to accept Lightning peers on, "host:port"; none: only dial out.
#listen = []
# Addresses to announce in place of those.
#announce = []
# A name to announce, at most 32 bytes; needed for announced channels.
#alias = "my node"
# Lightning node ids whose channels are used before they confirm. Such a peer
# could take back what it gave you.
#trusted = []
# What the wallet writes to its log: "error", "info" or "debug".
#log = "error"

[gateway]
# Where the OpenAI-compatible HTTP gateway listens. Port 0 takes a free one.
#listen = "127.0.0.1:9749"
# Let other machines use it: on another address, or through a TLS proxy on this
# machine. Needs [[gateway.keys]].
#expose = false
# Answer with a model of this machine, for nothing, where it has the one asked for.
#local_first = true
# Largest request body, in bytes.
#max_body_bytes = 2097152
# Requests served at once; further ones get HTTP 503.
#max_requests = 64
# Cap on the cost of one request, in sat; clients can only lower it. Default: twice what
# it can cost at the median of the offers of hosts that served this node (of all offers
# where none did), and never more than budget.per_order, nor more than 100 where no keys
# are asked for.
#max_cost = 100
# Keys that clients must send as `Authorization: Bearer …`; none: no key is asked
# for, and no request may name a host: any program of this machine could send your sats
# to one of its own. Each has a name in the ledger (not "cli", "gateway" or "demo") and may have a cap
# per UTC day, in sat.
#[[gateway.keys]]
#name = "editor"
#key = "choose-a-long-random-text"
#per_day = 500

[budget]
# Most for one order, in sat, routing fees included.
#per_order = 1000
# Most for one UTC day over everything, in sat, routing fees included.
#per_day = 10000
# Most for one UTC day per name: "cli", "gateway" (without keys; 1000 unless you name
# it), or the name of a gateway key.
#per_key = { cli = 5000 }
# Largest step of payment agreed to, in sat: an unknown host is paid so much output
# ahead. Hosts that list larger steps are not bought from.
#max_quantum = 10

[host]
# Sat for a million prompt tokens.
#input_price = 50
# Sat for a million output tokens.
#output_price = 200
# Sat for a million prompt tokens that the same buyer sent before and that are not
# computed again. Default: a quarter of input_price.
#cached_input_price = 12.5
# Sat for a million embeddings, on top of the price of their tokens.
#item_price = 0
# Least invoice and one step of payment, in sat. Smaller: less trust, more payments.
#quantum = 1
# Most that one buyer may owe while an answer streams, in sat.
#window_cap = 64
# What an unknown buyer may use before its first payment, in sat. Every new key
# gets it, and keys are free.
#free_quota = 0
# How buyers may pay: "metered" (in steps while an answer streams), "before" (all of
# it first; what is not used is not refunded), "after" (at the end, as far as the buyer
# has credit here).
#payment_modes = ["metered"]
# Orders served at once.
#concurrent_orders = 4
# Orders waiting behind them; further ones are refused.
#queued_orders = 8
# Most prompt tokens of an order; the model's context bounds it as well.
#prompt_tokens = 32768
# Most output tokens of an order.
#output_tokens = 8192
# Threads to compute on; 0 takes all.
#threads = 0
# Memory for the keys and values of each model's running and remembered orders, in
# MiB; 0 takes a quarter of the machine's. Less: fewer orders at once, shorter memory
# for cached input. One order's context must fit.
#cache_mib = 0
# Most tokens a second per order; 0 is as fast as it goes.
#pace = 0

[storage]
# How long finished orders stay on disk, prompts and evidence among them, in days.
# Hosts keep no prompt of an order that asks them to forget it, and nothing of one that
# was not paid for. The ledger stays.
#keep_days = 90
# Most that they may take, in MiB; the oldest go first.
#keep_mib = 1024
# Vocabularies of models that are bought from others, in MiB, so that prompts are
# counted here too; each is fetched once, from a host, after the first answer. The
# oldest go first; 0 fetches none, and hosts' counts are then believed up to a bound.
#vocabularies_mib = 256

[validator]
# Share of your own orders that is checked by recomputation, in parts per million
# (50000 is one in twenty). Needs the model on this machine, or `share_sampled`.
#sample_ppm = 50000
# Sampled orders may be sent to another validator. It then reads the prompt.
#share_sampled = false
"##;
