//! Every bound of the protocol, with its unit and its reason.
//!
//! Not configuration: an operator may set tighter bounds, never looser ones.

/// Largest frame on an order stream. Bytes. A prompt of 100,000 tokens is about 500 kB of text.
pub const MAX_ORDER_FRAME_BYTES: usize = 1 << 20;
/// Largest frame on an audit stream. Bytes. A bundle holds the order, and some
/// 40 bytes and the piece for each token.
pub const MAX_AUDIT_FRAME_BYTES: usize = 8 << 20;
/// Largest frame on a blob stream. Bytes. A group of a file, its proof, and the digests of a split
/// model's files.
pub const MAX_BLOB_FRAME_BYTES: usize = 320 << 10;
/// Most files of a split model. Their digests fit into a frame beside a group.
pub const MAX_MODEL_PARTS: usize = 1_024;
/// Most bytes before the tensors of a model's file. The largest known vocabularies take a fourth.
pub const MAX_METADATA_BYTES: usize = 64 << 20;
/// Most messages in one chat. Beyond it a client is looping, not talking.
pub const MAX_CHAT_MESSAGES: usize = 1_024;
/// Most text in one order over all messages. Bytes. Leaves room for the rest of the frame.
pub const MAX_PROMPT_BYTES: usize = 900 << 10;
/// Most output tokens that an order may ask for. Bounds the bundle: some 40 bytes
/// and the piece for each token.
pub const MAX_OUTPUT_TOKENS: u32 = 131_072;
/// Most stop strings. The OpenAI API allows 4; some clients send more.
pub const MAX_STOP_STRINGS: usize = 16;
/// Longest stop string. Bytes. It is held back from the stream while it may still match.
pub const MAX_STOP_BYTES: usize = 256;
/// Longest form that an answer may be asked to have: a schema, an expression, a grammar. Bytes.
/// With the longest prompt it still fits into a frame.
pub const MAX_CONSTRAINT_BYTES: usize = 64 << 10;
/// Most tokens whose logits an order may shift. Bounds the frame; hosted interfaces take as many.
pub const MAX_BIASES: usize = 512;
/// Largest shift of a logit, in thousandths: the OpenAI API's 100.
pub const MAX_BIAS_MILLI: u32 = 100_000;
/// Most alternatives whose probability an order may ask for: the OpenAI API's 20.
pub const MAX_LOGPROBS: u32 = 20;
/// Most texts in an order of embeddings. The OpenAI API takes 2,048.
pub const MAX_EMBED_TEXTS: usize = 2_048;
/// Largest embedding. Bytes: 16,384 elements of four.
pub const MAX_VECTOR_BYTES: usize = 64 << 10;
/// Most bytes of embeddings in one chunk. The host flushes earlier; this bounds the decoder.
pub const MAX_CHUNK_VECTOR_BYTES: usize = 512 << 10;
/// Longest text of one token. Bytes. The longest known vocabularies stay below.
pub const MAX_TOKEN_BYTES: usize = 1 << 10;
/// Most bytes of token texts in one chunk's probabilities. The host flushes earlier.
pub const MAX_CHUNK_LOGPROB_BYTES: usize = 128 << 10;
/// Most bytes of one token's piece. The longest known vocabularies stay below; a host that
/// knows no vocabulary cuts what another server sent into pieces of this size.
pub const MAX_PIECE_BYTES: usize = 4 << 10;
/// Most tokens in one chunk. The host flushes far earlier; this bounds the decoder.
pub const MAX_CHUNK_TOKENS: usize = 512;
/// Most bytes of all pieces in one chunk. A token is at most a few hundred bytes; a host
/// flushes earlier.
pub const MAX_CHUNK_TEXT_BYTES: usize = 64 << 10;
/// Longest BOLT 11 string. Bytes. Ours are about 300; route hints make it longer.
pub const MAX_BOLT11_BYTES: usize = 4 << 10;
/// Longest manifest, as JSON in a listing event. Bytes. Relays commonly refuse events above 64 KiB.
pub const MAX_MANIFEST_BYTES: usize = 32 << 10;
/// Most models in one manifest. Keeps it under [`MAX_MANIFEST_BYTES`].
pub const MAX_MODELS: usize = 64;
/// Most addresses in one manifest; more are never dialled.
pub const MAX_ADDRESSES: usize = 16;
/// Longest name, reason or other short human text. Bytes.
pub const MAX_SHORT_TEXT_BYTES: usize = 1 << 10;
/// Most extension records in one list. None are defined yet.
pub const MAX_EXTENSIONS: usize = 32;
/// Most contents of all extension records of an envelope and its body, or of a chunk. Bytes.
/// They are kept with the evidence of an order, message by message.
pub const MAX_EXTENSION_BYTES: usize = 4 << 10;
/// Most authority documents (delegations, mandates) carried by an order. Owner, node, agent, spare.
pub const MAX_AUTHORITY_DOCUMENTS: usize = 4;
/// Largest authority document. Bytes. A mandate with a hundred models is about 4 kB.
pub const MAX_AUTHORITY_BYTES: usize = 8 << 10;
/// Envelopes older or newer than this are refused. Milliseconds. Five minutes, as NTP-less machines drift.
pub const ENVELOPE_WINDOW_MS: u64 = 300_000;
/// Most nonces remembered at once, about 10 MB. Only orders that were paid for, or accepted on
/// credit, have theirs remembered; the latter may fill half of it. Beyond it orders are refused
/// as busy.
pub const MAX_NONCES: usize = 100_000;
/// Most invoices of one order. One a second for an hour; a signature check each.
pub const MAX_INVOICES: usize = 4_096;
/// Payments of one order that may be in flight at once. LDK allows 50 HTLCs a channel; six streams share it.
pub const MAX_PAYMENTS_IN_FLIGHT: usize = 8;
/// Most listings remembered. At 32 KiB each this bounds memory; `discovery::listings` says which goes first.
pub const MAX_LISTINGS: usize = 4_096;
/// Most candidates considered for one order.
pub const MAX_CANDIDATES: usize = 32;
/// Most orders of one peer that nobody paid for and whose keys neither paid before nor have
/// credit, at once: a gateway has as many purchases with one host. Peers are free, so it is the
/// bound of an address that holds floods off.
pub const MAX_UNPAID_PER_PEER: usize = 12;
/// Most orders of one peer, and of one key that paid before or has credit, that may end unpaid in
/// a minute.
pub const MAX_VOID_PER_MINUTE: u32 = 30;
/// Most orders of one address that nobody paid for and whose keys neither paid before nor have
/// credit, at once: an office of buyers, each of whom asks for a few offers.
pub const MAX_UNPAID_PER_ADDRESS: usize = 16;
/// Most orders of one address that may end unpaid in a minute before strangers from there are
/// offered nothing.
pub const MAX_VOID_PER_ADDRESS: u32 = 120;
/// How often an order machine sweeps nonces, and counts unpaid orders anew. Milliseconds.
pub const ORDER_SWEEP_MS: u64 = 60_000;
/// How long a buyer waits for the first token, beside twice the wait that the terms announce.
/// Milliseconds. A host that may need longer says so before it takes an entry.
pub const FIRST_TOKEN_MS: u64 = 180_000;
/// Largest grain of payments. Msat. A sat: no wallet counts in more, and a step of credit is no
/// less than it.
pub const MAX_PAYMENT_GRAIN_MSAT: u64 = 1_000;
/// Most orders of one side at once; an admission limit below it is the operator's to set.
pub const MAX_ORDERS: usize = 1_024;
/// Leading zero bits a listing event must have committed to (NIP-13).
pub const LISTING_POW_REQUIRED_BITS: u8 = 16;
/// Leading zero bits a host mines for its listing (NIP-13); about a million hashes.
pub const LISTING_POW_MINED_BITS: u8 = 20;
/// How often a host publishes its listing again. Milliseconds. Ten minutes, the short end of relay etiquette.
pub const REPUBLISH_MS: u64 = 600_000;
/// How long a listing lives. Milliseconds. Twice the republish interval, so that one lost publish is harmless.
pub const LISTING_TTL_MS: u64 = 2 * REPUBLISH_MS;
/// Least time between two pulses on a model's topic. Milliseconds.
pub const PULSE_MIN_MS: u64 = 60_000;
/// Free quotas that new keys of one peer, and of one address, get in an hour: keys are free.
pub const FREE_QUOTAS_PER_ADDRESS: u32 = 60;
/// Free quotas that all new keys together get in an hour.
pub const FREE_QUOTAS: u32 = 1_200;
/// Bundles the validator keeps waiting for a check; the oldest is dropped and said so.
pub const MAX_PENDING_AUDITS: usize = 64;
/// Logits whose digest enters the token chain.
pub const CHAIN_TOP_LOGITS: usize = 64;
/// Most histories that reputation keeps, per (host, model) and per host. A few hundred bytes each.
pub const MAX_HISTORIES: usize = 8_192;
/// Most questions of siblings that discovery has open at once; each is answered in a turn or two.
pub const MAX_TICKETS: usize = 256;
/// Relays remembered per listing, for an operator's table.
pub const MAX_LISTING_RELAYS: usize = 16;
/// Most model topics followed. Gossip of models that nobody here asks for is not wanted.
pub const MAX_TOPICS: usize = 64;
/// Most verdicts kept. At about 300 bytes each.
pub const MAX_VERDICTS: usize = 4_096;
