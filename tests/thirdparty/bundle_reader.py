#!/usr/bin/env python3
"""A second reader of freehold's evidence, written from protocol/PROTOCOL.md alone.

    bundle_reader.py FILE            judges a bundle that `freehold ask --save-bundle` wrote
    bundle_reader.py --vectors DIR   reads every golden vector in protocol/tests/golden

Needs Python 3.9 and nothing else: BLAKE3, BIP340 and BOLT 11 are below, written for clarity and
not for speed or for secrets. Prints a verdict line and, for a bundle, the text that was shown.
Exits with 0 where all agrees, 1 where something is wrong (and says what), 2 where there is
nothing to judge. It knows neither the model nor the listing, so it cannot say whether the
answer is the model's, nor whether the prices are those listed.
"""

import hashlib
import json
import re
import struct
import sys
from pathlib import Path


class Wrong(Exception):
    """What is wrong with the evidence, as a sentence."""


def check(holds, what):
    if not holds:
        raise Wrong(what)


# ---------------------------------------------------------------- BLAKE3

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, CONTEXT, MATERIAL = 1, 2, 4, 8, 32, 64
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
           (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def compress(chain, block, counter, length, flags):
    """Returns the first eight words of BLAKE3's compression function."""
    low = 0xFFFFFFFF
    v = list(chain) + list(IV[:4]) + [counter & low, counter >> 32, length, flags]
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    for turn in range(7):
        for pair, (a, b, c, d) in enumerate(COLUMNS):
            for word, right_d, right_b in ((words[2 * pair], 16, 12), (words[2 * pair + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & low
                x = v[d] ^ v[a]
                v[d] = (x >> right_d | x << (32 - right_d)) & low
                v[c] = (v[c] + v[d]) & low
                x = v[b] ^ v[c]
                v[b] = (x >> right_b | x << (32 - right_b)) & low
        if turn < 6:
            words = [words[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data, key=IV, mode=0):
    """Returns 32 bytes; `mode` is the flag that every compression carries."""
    def chunk(index, last):
        part = data[1024 * index:1024 * (index + 1)]
        blocks = [part[i:i + 64] for i in range(0, len(part), 64)] or [b""]
        chain = list(key)
        for i, block in enumerate(blocks):
            flags = mode | (CHUNK_START if i == 0 else 0) | (CHUNK_END if i + 1 == len(blocks) else 0)
            flags |= ROOT if last and i + 1 == len(blocks) else 0
            chain = compress(chain, block, index, len(block), flags)
        return chain

    def tree(first, count, root):
        if count == 1:
            return chunk(first, root)
        left = 1 << ((count - 1).bit_length() - 1)
        both = tree(first, left, False) + tree(first + left, count - left, False)
        return compress(key, struct.pack("<16I", *both), 0, 64, mode | PARENT | (ROOT if root else 0))

    chunks = max(1, (len(data) + 1023) // 1024)
    return struct.pack("<8I", *tree(0, chunks, True))


def tagged_hash(tag, *parts):
    key = struct.unpack("<8I", blake3(tag.encode("ascii"), mode=CONTEXT))
    material = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return blake3(material, key, MATERIAL)


# ---------------------------------------------------------------- secp256k1

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
     0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)


def double(point):
    x, y, z = point
    if y == 0 or z == 0:
        return (0, 1, 0)
    s = 4 * x * y * y % P
    m = 3 * x * x % P
    new_x = (m * m - 2 * s) % P
    return (new_x, (m * (s - new_x) - 8 * pow(y, 4, P)) % P, 2 * y * z % P)


def add(a, b):
    if a[2] == 0:
        return b
    if b[2] == 0:
        return a
    za, zb = a[2] * a[2] % P, b[2] * b[2] % P
    ua, ub = a[0] * zb % P, b[0] * za % P
    sa, sb = a[1] * zb * b[2] % P, b[1] * za * a[2] % P
    if ua == ub:
        return double(a) if sa == sb else (0, 1, 0)
    h, r = (ub - ua) % P, (sb - sa) % P
    hh = h * h % P
    hhh, v = h * hh % P, ua * hh % P
    x = (r * r - hhh - 2 * v) % P
    return (x, (r * (v - x) - sa * hhh) % P, h * a[2] * b[2] % P)


def multiply(point, factor):
    total, base = (0, 1, 0), (point[0], point[1], 1)
    while factor:
        if factor & 1:
            total = add(total, base)
        base, factor = double(base), factor >> 1
    return total


def affine(point):
    if point[2] == 0:
        return None
    inverse = pow(point[2], P - 2, P)
    return (point[0] * inverse * inverse % P, point[1] * pow(inverse, 3, P) % P)


def lift(x, odd=False):
    """Returns the point with this x and a y of that parity, or None."""
    if x >= P:
        return None
    square = (pow(x, 3, P) + 7) % P
    y = pow(square, (P + 1) // 4, P)
    if y * y % P != square:
        return None
    return (x, P - y if bool(y & 1) != odd else y)


def sha256(data):
    return hashlib.sha256(data).digest()


def verify_bip340(key, message, signature):
    point = lift(int.from_bytes(key, "big"))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if point is None or r >= P or s >= N:
        return False
    tag = sha256(b"BIP0340/challenge")
    e = int.from_bytes(sha256(tag + tag + signature[:32] + key + message), "big") % N
    found = affine(add(multiply(G, s), multiply(point, N - e)))
    return found is not None and found[1] % 2 == 0 and found[0] == r


def recover(message, r, s, recovery):
    """Returns the compressed key that made an ECDSA signature, or None."""
    point = lift(r + (N if recovery & 2 else 0), bool(recovery & 1))
    if point is None or not 0 < r < N or not 0 < s < N:
        return None
    inverse, z = pow(r, N - 2, N), int.from_bytes(message, "big")
    key = affine(add(multiply(point, s * inverse % N), multiply(G, (-z * inverse) % N)))
    return key and bytes([2 + key[1] % 2]) + key[0].to_bytes(32, "big")


# ---------------------------------------------------------------- BOLT 11

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
MULTIPLIERS = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}


def bits_to_bytes(words):
    """Packs words of five bits, the last byte filled up with zeros."""
    number, count = 0, 0
    for word in words:
        number, count = number << 5 | word, count + 5
    padded = -(-count // 8)
    return (number << (8 * padded - count)).to_bytes(padded, "big")


def read_bolt11(text):
    """Returns amount in msat, payment hash, description hash and payee of an invoice."""
    text = text.lower()
    prefix, found, data = text.rpartition("1")
    check(found and len(data) > 6 + 104 + 7, "an invoice is no bech32 text")
    check(all(letter in BECH32 for letter in data), "an invoice is no bech32 text")
    words = [BECH32.index(letter) for letter in data]
    checksum = 1
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + words
    for word in expanded:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ word
        for bit, value in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= value if top >> bit & 1 else 0
    check(checksum == 1, "the checksum of an invoice is wrong")
    words = words[:-6]
    named = re.fullmatch(r"ln(?:bcrt|bc|tbs|tb)(?:(\d+)([munp]?))?", prefix)
    check(named, f"an invoice begins with {prefix}")
    amount = None
    if named[1]:
        tenths = int(named[1]) * MULTIPLIERS[named[2]]
        check(tenths % 10 == 0, "an invoice for a part of a msat")
        amount = tenths // 10
    body, signature = words[:-104], bits_to_bytes(words[-104:])
    fields, at = {}, 7
    while at + 3 <= len(body):
        kind, length = body[at], body[at + 1] * 32 + body[at + 2]
        value = body[at + 3:at + 3 + length]
        check(len(value) == length, "a field of an invoice is cut short")
        if length == 52:
            fields.setdefault(BECH32[kind], bits_to_bytes(value)[:32])
        elif length == 53:
            fields.setdefault(BECH32[kind], bits_to_bytes(value)[:33])
        at += 3 + length
    message = sha256(prefix.encode() + bits_to_bytes(body))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    payee = recover(message, r, s, signature[64])
    check(payee is not None and fields.get("n", payee) == payee, "the signature of an invoice is wrong")
    return {"msat": amount, "hash": fields.get("p"), "about": fields.get("h"), "payee": payee}


# ---------------------------------------------------------------- the encoding

class Bytes:
    """A cursor over what is read."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(count <= len(self.data) - self.at, "a message is cut short")
        self.at += count
        return self.data[self.at - count:self.at]


class Varint:
    def __init__(self, bits, signed=False):
        self.bits, self.signed = bits, signed

    def read(self, source):
        first = source.take(1)[0]
        size = {251: 2, 252: 4, 253: 8}.get(first, 0)
        check(first <= 250 or 0 < size * 8 <= self.bits, "a number does not fit its type")
        value = int.from_bytes(source.take(size), "little") if size else first
        return (value >> 1) ^ -(value & 1) if self.signed else value

    def write(self, value):
        if self.signed:
            value = value * 2 if value >= 0 else -value * 2 - 1
        check(0 <= value < 1 << self.bits, "a number does not fit its type")
        if value <= 250:
            return bytes([value])
        size = 2 if value < 1 << 16 else 4 if value < 1 << 32 else 8
        return bytes([249 + size.bit_length()]) + value.to_bytes(size, "little")

    def from_json(self, value):
        check(isinstance(value, int) and not isinstance(value, bool), "a number is expected")
        return value


class Bool:
    def read(self, source):
        value = source.take(1)[0]
        check(value <= 1, "a bool is neither 0 nor 1")
        return value == 1

    def write(self, value):
        return bytes([value])

    def from_json(self, value):
        check(isinstance(value, bool), "a bool is expected")
        return value


class Fixed:
    """So many bytes; in JSON hex or, for nonces and salts, an array."""

    def __init__(self, size):
        self.size = size

    def read(self, source):
        return source.take(self.size)

    def write(self, value):
        check(len(value) == self.size, f"{self.size} bytes are expected")
        return value

    def from_json(self, value):
        value = bytes.fromhex(value) if isinstance(value, str) else BLOB.from_json(value)
        check(len(value) == self.size, f"{self.size} bytes are expected")
        return value


class Blob:
    def read(self, source):
        return source.take(U64.read(source))

    def write(self, value):
        return U64.write(len(value)) + value

    def from_json(self, value):
        check(isinstance(value, list), "an array of bytes is expected")
        return bytes(value)


class Text:
    def read(self, source):
        try:
            return BLOB.read(source).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Wrong("a string is not UTF-8") from error

    def write(self, value):
        return BLOB.write(value.encode("utf-8"))

    def from_json(self, value):
        check(isinstance(value, str), "a text is expected")
        return value


class Many:
    def __init__(self, of):
        self.of = of

    def read(self, source):
        count = U64.read(source)
        check(count <= len(source.data), "a list is longer than its message")
        return [self.of.read(source) for _ in range(count)]

    def write(self, value):
        return U64.write(len(value)) + b"".join(map(self.of.write, value))

    def from_json(self, value):
        check(isinstance(value, list), "a list is expected")
        return [self.of.from_json(item) for item in value]


class Maybe:
    def __init__(self, of):
        self.of = of

    def read(self, source):
        return self.of.read(source) if BOOL.read(source) else None

    def write(self, value):
        return b"\0" if value is None else b"\1" + self.of.write(value)

    def from_json(self, value):
        return None if value is None else self.of.from_json(value)


class Struct:
    def __init__(self, **fields):
        self.fields = fields

    def read(self, source):
        return {name: of.read(source) for name, of in self.fields.items()}

    def write(self, value):
        return b"".join(of.write(value[name]) for name, of in self.fields.items())

    def from_json(self, value):
        check(isinstance(value, dict) and all(name in value for name in self.fields),
              f"an object with {', '.join(self.fields)} is expected")
        return {name: of.from_json(value[name]) for name, of in self.fields.items()}


class Enum:
    """Variants in order, those without content first or as None. A value is the name of a
    variant, or (name, content)."""

    def __init__(self, *bare, **variants):
        self.variants = dict.fromkeys(bare) | variants
        self.names = list(self.variants)

    def read(self, source):
        index = U32.read(source)
        check(index < len(self.names), f"there is no variant {index} of {', '.join(self.names)}")
        name = self.names[index]
        of = self.variants[name]
        return name if of is None else (name, of.read(source))

    def write(self, value):
        name, content = value if isinstance(value, tuple) else (value, None)
        of = self.variants[name]
        return U32.write(self.names.index(name)) + (b"" if of is None else of.write(content))

    def from_json(self, value):
        if isinstance(value, dict):
            (name, content), = value.items()
            return (name, self.variants[name].from_json(content))
        check(value in self.names, f"one of {', '.join(self.names)} is expected")
        return value


class Code:
    """A refusal's number; in JSON its word."""

    WORDS = ("bad_order bad_envelope unknown_model too_long busy owner_active cap_too_low budget_exhausted "
             "no_host wallet_cannot_pay payment_failed payment_unknown not_paid disconnected timeout "
             "protocol_violation cancelled engine_failed interrupted shutting_down no_invoice "
             "mode_unsupported storage_failed handling_unsupported host_misconfigured debt_disputed "
             "not_as_listed too_many_unpaid wallet_away").split()

    def read(self, source):
        return U16.read(source)

    def write(self, value):
        return U16.write(value)

    def from_json(self, value):
        return self.WORDS.index(value) if value in self.WORDS else 0xFFFF


U16, U32, U64 = Varint(16), Varint(32), Varint(64)
I32, I64 = Varint(32, signed=True), Varint(64, signed=True)
BOOL, BLOB, TEXT, CODE = Bool(), Blob(), Text(), Code()
KEY = DIGEST = HASH = Fixed(32)
ORDER_ID = NONCE = SALT = Fixed(16)

EXTENSION = Struct(kind=U16, value=BLOB)
EXTENSIONS = Many(EXTENSION)
COUNTS = Struct(input_tokens=U64, cached_input_tokens=U64, output_tokens=U64, items=U64)
METER = Enum("input_token", "cached_input_token", "output_token", "item", "pixel", "second")
PRICES = Many(Struct(meter=METER, msat_per_million=U64))
NETWORK = Enum("mainnet", "signet", "regtest")
KINDS = ("Manifest", "Order", "Terms", "Invoice", "Paid", "Receipt", "Countersigned", "Verdict",
         "QuoteRequest", "HostQuote", "RouterOffer", "Mandate", "Revocation")
ENVELOPE = Struct(network=NETWORK, kind=Enum(*KINDS), version=U16, **{"from": KEY}, to=Maybe(KEY),
                  time=U64, nonce=NONCE, body=BLOB, extensions=EXTENSIONS)
SIGNED = Struct(bytes=BLOB, signature=Fixed(64))
REFUSAL = Struct(code=CODE, message=TEXT, retry_after_ms=Maybe(U64))

WORK = Enum(chat=Struct(messages=Many(Struct(role=TEXT, content=TEXT))), complete=Struct(prompt=TEXT),
            embed=Struct(texts=Many(TEXT)))
SAMPLING = Struct(temperature_milli=U32, top_k=U32, top_p_milli=U32, min_p_milli=U32,
                  repetition_penalty_milli=U32, presence_penalty_milli=I32, frequency_penalty_milli=I32)
STEERING = Struct(bias=Many(Struct(token=U32, milli=I32)),
                  constraint=Maybe(Enum("json", json_schema=TEXT, regex=TEXT, lark=TEXT)),
                  logprobs=Maybe(U32))
JOB = Struct(work=WORK, max_output=U32, sampling=SAMPLING, seed=U64, stop=Many(TEXT), date=TEXT,
             steering=STEERING, prefix=Many(U32), extensions=EXTENSIONS)
MODE = Enum("metered", "before", "after")
ORDER_BODY = Struct(model=DIGEST, job=JOB, max_cost=U64, mode=MODE, payment_grain=U64,
                    path=Enum("fast", "onion", "local"), retention=Enum("keep", "forget"),
                    handling=Enum("plain", "confidential"), salt=SALT, via=Maybe(KEY),
                    authority=Many(SIGNED), extensions=EXTENSIONS)
TERMS = Struct(order=DIGEST, input=COUNTS, prices=PRICES, window=U64, quantum=U64, carried_debt=U64,
               entry=Maybe(Struct(bolt11=TEXT, msat=U64)), numerics=Maybe(TEXT), tokenizer=DIGEST,
               template=DIGEST, starts_within_ms=U64, expires=U64, extensions=EXTENSIONS)
TOKEN = Struct(id=U32, logits=DIGEST, piece=Struct(control=BOOL, bytes=BLOB))
FINISH = Enum("stop", "length", "budget", "stopped")
LOGPROB = Struct(token=U32, bytes=BLOB, micro=I64)
ATTACHED = Struct(logprobs=Many(Struct(chosen=LOGPROB, top=Many(LOGPROB))), vectors=Many(BLOB))
CHUNK = Struct(seq=U32, tokens=Many(TOKEN), totals=COUNTS, finish=Maybe(FINISH), attached=ATTACHED,
               extensions=EXTENSIONS)
INVOICE = Struct(order=ORDER_ID, seq=U32, bolt11=TEXT, msat=U64, covers=COUNTS, invoiced=U64,
                 head=DIGEST, window=U64, extensions=EXTENSIONS)
PAID = Struct(order=ORDER_ID, seq=U32, hash=HASH, head=DIGEST, extensions=EXTENSIONS)
STATUS = Enum("complete", "stopped", failed=CODE)
RECEIPT = Struct(id=ORDER_ID, order=DIGEST, terms=DIGEST, buyer=KEY, host=KEY, model=DIGEST,
                 tokenizer=DIGEST, template=DIGEST, numerics=Maybe(TEXT), prices=PRICES, prompt=DIGEST,
                 head=DIGEST, finish=FINISH, counts=COUNTS, cost=U64,
                 payments=Many(Struct(seq=U32, hash=HASH, msat=U64)), debt=U64, started=U64, ended=U64,
                 status=STATUS, extensions=EXTENSIONS)
COUNTERSIGNED = Struct(receipt=DIGEST, extensions=EXTENSIONS)
BUNDLE = Struct(order=SIGNED, terms=SIGNED, tokens=Many(TOKEN), invoices=Many(SIGNED),
                receipt=Maybe(SIGNED), countersigned=Maybe(SIGNED))
VERDICT = Struct(id=ORDER_ID, evidence=DIGEST, host=KEY, model=DIGEST, validator=KEY,
                 tier=Enum("bookkeeping", "exact_replay"),
                 finding=Enum("honest", false_account=Struct(detail=TEXT),
                              wrong_answer=Struct(position=U64, detail=TEXT),
                              inconclusive=Struct(detail=TEXT)),
                 numerics=Maybe(TEXT), tokens=U64, time=U64, extensions=EXTENSIONS)
QUOTE_REQUEST = Struct(model=DIGEST, expected=COUNTS, max_cost=U64, extensions=EXTENSIONS)
HOST_QUOTE = Struct(request=DIGEST, model=DIGEST, prices=PRICES, quantum=U64, starts_within_ms=U64,
                    expires=U64, extensions=EXTENSIONS)
ROUTER_OFFER = Struct(request=DIGEST, quotes=Many(DIGEST), fee=U64, bolt11=Maybe(TEXT), expires=U64,
                      extensions=EXTENSIONS)
MANDATE = Struct(agent=KEY, per_order=U64, per_day=U64, models=Many(DIGEST), starts=U64, expires=U64,
                 extensions=EXTENSIONS)
REVOCATION = Struct(mandate=DIGEST, extensions=EXTENSIONS)
OFFER = Struct(name=TEXT, digest=DIGEST, tokenizer=DIGEST, template=DIGEST, architecture=TEXT,
               quantisation=TEXT, context=U32, numerics=Maybe(TEXT), prices=PRICES)
ROLE = Enum("client", "host", "embedder", "validator", "router", "trainer", "coordinator", "relay", "lsp")
MANIFEST = Struct(network=NETWORK, node=KEY, lightning=Fixed(33), lightning_proof=TEXT, roles=Many(ROLE),
                  software=TEXT, bands=Many(TEXT), models=Many(OFFER),
                  limits=Struct(concurrent_orders=U32, queued_orders=U32, prompt_tokens=U32,
                                output_tokens=U32),
                  payment_modes=Many(MODE), quantum=U64, keep_days=U32, addresses=Many(TEXT),
                  created=U64, expires=U64, extensions=EXTENSIONS)
PULSE = Struct(host=KEY, model=DIGEST, running=U32, queued=U32, slots=U32, time=U64)
FRAME = Enum(order=SIGNED, terms=SIGNED, refusal=REFUSAL, accept=DIGEST, chunk=CHUNK, invoice=SIGNED,
             paid=SIGNED, stop=None, cancel=None, receipt=SIGNED, countersigned=SIGNED)
AUDIT_FRAME = Enum(check=BUNDLE, verdict=SIGNED, refusal=REFUSAL)
QUOTE_FRAME = Enum(request=SIGNED, offers=Struct(offer=SIGNED, quotes=Many(SIGNED)), refusal=REFUSAL)
BLOB_FRAME = Enum(get=Struct(model=Fixed(32), part=U32, group=U64),
                  slice=Struct(parts=Many(Fixed(32)), length=U64, bytes=Blob(), path=Many(Fixed(32))),
                  refusal=REFUSAL)
BODIES = dict(zip(KINDS, (MANIFEST, ORDER_BODY, TERMS, INVOICE, PAID, RECEIPT, COUNTERSIGNED, VERDICT,
                          QUOTE_REQUEST, HOST_QUOTE, ROUTER_OFFER, MANDATE, REVOCATION)))


def decode(of, data):
    source = Bytes(data)
    value = of.read(source)
    check(source.at == len(data), f"{len(data) - source.at} bytes follow a message")
    return value


# ---------------------------------------------------------------- what is signed

MAX_ENVELOPE = 1 << 20


def check_extensions(what, *lists):
    check(all(len(records) <= 32 for records in lists), f"{what} has too many extensions")
    records = sum(lists, [])
    check(sum(len(record["value"]) for record in records) <= 4096, f"{what} has too large extensions")
    for record in records:
        check(record["kind"] % 2 == 1, f"{what} has an extension that must be understood: {record['kind']}")


def digest(signed):
    return tagged_hash("freehold/digest/1", signed["bytes"])


def named(kind):
    return "the countersignature" if kind == "Countersigned" else f"the {kind.lower()}"


def open_signed(signed, kind, network=None):
    """Section 4: the envelope and its body, as anybody can check them."""
    what = named(kind)
    check(len(signed["bytes"]) <= MAX_ENVELOPE, f"{what} is too long")
    envelope = decode(ENVELOPE, signed["bytes"])
    check(envelope["kind"] == kind and envelope["version"] == 1,
          f"{what} is a message of kind {envelope['kind']}, version {envelope['version']}")
    check(network in (None, envelope["network"]), f"{what} is for network {envelope['network']}")
    check_extensions(what, envelope["extensions"])
    message = tagged_hash("freehold/envelope/1", signed["bytes"])
    check(verify_bip340(envelope["from"], message, signed["signature"]), f"the signature of {what} is wrong")
    body = decode(BODIES[kind], envelope["body"])
    job = body["job"]["extensions"] if kind == "Order" else []
    check_extensions(what, envelope["extensions"], body["extensions"], job)
    return envelope, body


# ---------------------------------------------------------------- the rules

def delivered(counts):
    return counts["output_tokens"] + counts["items"]


def cost(prices, counts):
    fields = {"input_token": "input_tokens", "cached_input_token": "cached_input_tokens",
              "output_token": "output_tokens", "item": "items"}
    first = {}
    for price in prices:
        first.setdefault(price["meter"], price["msat_per_million"])
    return sum(first.get(meter, 0) * counts[field] for meter, field in fields.items()) // 1_000_000


def is_embedding(job):
    return job["work"][0] == "embed"


def ordered(job):
    return len(job["work"][1]["texts"]) if is_embedding(job) else job["max_output"]


def with_delivered(job, counts, units):
    field, other = ("items", "output_tokens") if is_embedding(job) else ("output_tokens", "items")
    return dict(counts, **{field: units, other: 0})


def texts_of(job):
    kind, content = job["work"]
    if kind == "chat":
        return [message["role"] + message["content"] for message in content["messages"]]
    return [content["prompt"]] if kind == "complete" else content["texts"]


def check_job(order):
    job, steering = order["job"], order["job"]["steering"]
    texts = texts_of(job)
    size = sum(len(text.encode()) for text in texts)
    constraint = steering["constraint"]
    form = constraint[1] if isinstance(constraint, tuple) else ""
    for what, found, most in (
        ("output", job["max_output"], 131_072),
        ("stop strings", len(job["stop"]), 16),
        ("bytes of a stop string", max((len(s.encode()) for s in job["stop"]), default=0), 256),
        ("bytes of the date", len(job["date"].encode()), 32),
        ("texts", len(texts), 2_048 if is_embedding(job) else 1_024),
        ("bytes of text", size, 900 << 10),
        ("biased tokens", len(steering["bias"]), 512),
        ("thousandths of bias", max((abs(b["milli"]) for b in steering["bias"]), default=0), 100_000),
        ("bytes of a form", len(form.encode()), 64 << 10),
        ("probabilities", steering["logprobs"] or 0, 20),
        ("documents of authority", len(order["authority"]), 4),
        ("bytes of a document", max((len(d["bytes"]) for d in order["authority"]), default=0), 8 << 10),
        ("msat of grain", order["payment_grain"], 1_000_000),
    ):
        check(found <= most, f"the order has {found} {what}, {most} are the most")
    check(ordered(job) > 0, "the order asks for no output")
    return size, len(texts)


def check_terms(order, terms):
    """Section 7, as far as it needs no listing."""
    job, given = order["job"], terms["input"]
    size, messages = check_job(order)
    prompt = given["input_tokens"] + given["cached_input_tokens"]
    check(delivered(given) == 0, "the terms count output before there is any")
    check(prompt <= size + 64 * messages + 1_024, "the terms count more input than the text can have")
    prices = {price["meter"]: price["msat_per_million"] for price in reversed(terms["prices"])}
    check(given["cached_input_tokens"] == 0
          or prices.get("cached_input_token", 0) <= prices.get("input_token", 0),
          "cached input is dearer than computed input")
    check(terms["carried_debt"] <= terms["quantum"], "the carried debt is larger than a quantum")
    most = min(cost(terms["prices"], with_delivered(job, given, ordered(job))), order["max_cost"])
    check(4_096 * terms["quantum"] >= most, "the steps are so small that there would be too many invoices")
    if terms["entry"] is None:
        return
    base = cost(terms["prices"], given)
    output = lambda units: cost(terms["prices"], with_delivered(job, given, units)) - base
    whole = output(ordered(job))
    check(order["mode"] != "after", "an entry where the order is paid at its end")
    step = whole if order["mode"] == "before" else min(max(terms["quantum"], output(1)), whole)
    most = base + step + terms["carried_debt"] + max(order["payment_grain"], 1) - 1
    check(terms["entry"]["msat"] <= most, f"the entry is above {most} msat")
    check(terms["entry"]["msat"] <= order["max_cost"], "the entry is above the cap")


def chain(order_digest, terms_digest, tokens):
    """Returns the heads after 0, 1, … tokens."""
    heads = [tagged_hash("freehold/chain/0", order_digest, terms_digest)]
    for token in tokens:
        piece = token["piece"]
        heads.append(tagged_hash("freehold/chain/n", heads[-1], struct.pack("<I", token["id"]),
                                 token["logits"], bytes([piece["control"]]), piece["bytes"]))
    return heads


def render(tokens, stops):
    """Section 8: the text, and whether a stop string ended it."""
    data = b"".join(t["piece"]["bytes"] for t in tokens if not t["piece"]["control"])
    text = data.decode("utf-8", errors="replace")
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
    return (text[:min(found)[1]], True) if found else (text, False)


def description_hash(order_id, seq, covers):
    return tagged_hash("freehold/invoice/1", order_id, struct.pack("<I", seq), COUNTS.write(covers))


class Case:
    """One bundle, checked as section 13 says."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.order_envelope, self.order = open_signed(bundle["order"], "Order")
        self.network = self.order_envelope["network"]
        self.terms_envelope, self.terms = open_signed(bundle["terms"], "Terms", self.network)
        self.order_digest, self.terms_digest = digest(bundle["order"]), digest(bundle["terms"])
        self.id = self.order_digest[:16]
        self.buyer, self.host = self.order_envelope["from"], self.terms_envelope["from"]
        self.job, self.tokens = self.order["job"], bundle["tokens"]
        self.payee = None
        self.asked = {}

    def judge(self):
        check(self.order_envelope["to"] == self.host, "the order is for another host")
        check(self.terms_envelope["to"] == self.buyer, "the terms are for another buyer")
        check(self.terms["order"] == self.order_digest, "the terms are those of another order")
        check_terms(self.order, self.terms)
        check(len(self.tokens) <= min(ordered(self.job), 131_072), "more was delivered than was ordered")
        check(len(self.bundle["invoices"]) <= 4_096, "there are too many invoices")
        for token in self.tokens:
            check(len(token["piece"]["bytes"]) <= 4_096, "a piece is too long")
        self.heads = chain(self.order_digest, self.terms_digest, self.tokens)
        self.text, self.stopped = render(self.tokens, self.job["stop"])
        self.invoices()
        receipt = self.bundle["receipt"] and self.receipt()
        self.countersignature()
        return receipt

    def opened_of_host(self, signed, kind):
        envelope, body = open_signed(signed, kind, self.network)
        what = named(kind)
        check(envelope["from"] == self.host, f"{what} is signed by another key than the terms")
        check(envelope["to"] == self.buyer, f"{what} is for another buyer")
        return body

    def covered(self, counts, head, what):
        units = delivered(counts)
        check(counts == with_delivered(self.job, self.terms["input"], units),
              f"{what} has other counts than terms and order allow")
        check(units <= len(self.tokens), f"{what} covers {units} tokens, {len(self.tokens)} are there")
        check(head == self.heads[units],
              f"the chain head in {what} is not that of the first {units} tokens and their text")
        return units

    def bolt11(self, text, msat, seq, covers):
        check(len(text) <= 4_096, f"invoice {seq} is too long")
        facts = read_bolt11(text)
        check(facts["msat"] == msat, f"invoice {seq} says {msat} msat, its BOLT 11 string {facts['msat']}")
        check(facts["about"] == description_hash(self.id, seq, covers),
              f"invoice {seq} is not bound to this order by its description hash")
        check(self.payee in (None, facts["payee"]), f"invoice {seq} pays another Lightning node")
        self.payee = facts["payee"]
        check(all(facts["hash"] != hash for hash, _ in self.asked.values()),
              f"invoice {seq} has the payment hash of another")
        self.asked[seq] = (facts["hash"], msat)

    def invoices(self):
        entry, carried = self.terms["entry"], self.terms["carried_debt"]
        last, total, units = 0, 0, 0
        unit = cost(self.terms["prices"], with_delivered(self.job, self.terms["input"], 1))
        unit -= cost(self.terms["prices"], self.terms["input"])
        least = self.terms["quantum"] - unit - max(self.order["payment_grain"], 1)
        if entry is not None:
            self.bolt11(entry["bolt11"], entry["msat"], 0, self.terms["input"])
            total = entry["msat"]
        for signed in self.bundle["invoices"]:
            body = self.opened_of_host(signed, "Invoice")
            what = f"invoice {body['seq']}"
            check(body["order"] == self.id, f"{what} is of another order")
            check(body["seq"] > last, f"{what} comes after invoice {last}")
            covers = self.covered(body["covers"], body["head"], what)
            check(covers >= units, f"{what} covers less than an earlier one")
            check(body["invoiced"] == total + body["msat"], f"{what} does not add up with those before it")
            due = cost(self.terms["prices"], body["covers"]) + carried
            check(body["invoiced"] <= due, f"{what} brings the sum to {body['invoiced']} msat, {due} is due")
            check(body["invoiced"] <= self.order["max_cost"], f"{what} is above the cap")
            is_last = covers == len(self.tokens)
            check(is_last or body["msat"] > least, f"{what} is below a step before the end")
            check(body["msat"] > least or due - body["invoiced"] < max(self.order["payment_grain"], 1),
                  f"{what} is below a step and not the whole remainder")
            check(is_last or self.order["mode"] == "metered", f"{what} comes before the end of output")
            self.bolt11(body["bolt11"], body["msat"], body["seq"], body["covers"])
            last, total, units = body["seq"], body["invoiced"], covers

    def receipt(self):
        body = self.opened_of_host(self.bundle["receipt"], "Receipt")
        for field, expected in (
            ("id", self.id), ("order", self.order_digest), ("terms", self.terms_digest),
            ("buyer", self.buyer), ("host", self.host), ("model", self.order["model"]),
            ("tokenizer", self.terms["tokenizer"]), ("template", self.terms["template"]),
            ("numerics", self.terms["numerics"]), ("prices", self.terms["prices"]),
        ):
            check(body[field] == expected, f"`{field}` of the receipt is not that of order and terms")
        units = self.covered(body["counts"], body["head"], "the receipt")
        check(units == len(self.tokens), f"the receipt counts {units} tokens, {len(self.tokens)} are there")
        owed = cost(self.terms["prices"], body["counts"])
        check(body["cost"] == owed, f"the receipt says a cost of {body['cost']} msat, it is {owed}")
        numbers = [payment["seq"] for payment in body["payments"]]
        check(all(a < b for a, b in zip(numbers, numbers[1:])), "the payments are not in ascending order")
        hashes = {payment["hash"] for payment in body["payments"]}
        check(len(hashes) == len(numbers), "one payment hash is booked twice")
        for payment in body["payments"]:
            asked = self.asked.get(payment["seq"])
            check(asked in (None, (payment["hash"], payment["msat"])),
                  f"payment {payment['seq']} is not the one that its invoice asks for")
        check(set(self.asked) <= set(numbers), "the receipt leaves out an invoice")
        paid = sum(payment["msat"] for payment in body["payments"])
        debt = max(0, owed + self.terms["carried_debt"] - paid)
        check(body["debt"] == debt, f"the receipt says a debt of {body['debt']} msat, it is {debt}")
        status = "stopped" if body["finish"] == "stopped" else "complete"
        check(body["status"] == status, "the status is not that of the end of output")
        more = with_delivered(self.job, self.terms["input"], units + 1)
        more = cost(self.terms["prices"], more) + self.terms["carried_debt"]
        check(body["finish"] != "budget" or more > self.order["max_cost"],
              "the cap is called used up, and it leaves room for one unit more")
        if is_embedding(self.job):
            check(body["finish"] not in ("stop", "length") or units == ordered(self.job),
                  "the embeddings are called complete, and a text has none")
        elif body["numerics"] is not None:
            ends = self.stopped or bool(self.tokens) and self.tokens[-1]["piece"]["control"]
            check(body["finish"] != "stop" or ends, "the answer is called ended, and nothing ended it")
            check(body["finish"] != "length" or units == ordered(self.job),
                  "the answer is called complete, and less was delivered than ordered")
        return body

    def countersignature(self):
        signed = self.bundle["countersigned"]
        if signed is None:
            return
        envelope, body = open_signed(signed, "Countersigned", self.network)
        check(self.bundle["receipt"] is not None, "a countersignature without a receipt")
        check(envelope["from"] == self.buyer and envelope["to"] == self.host,
              "the countersignature is not the buyer's to the host")
        check(body["receipt"] == digest(self.bundle["receipt"]), "the countersignature is under another receipt")


def judge_file(path):
    try:
        bundle = BUNDLE.from_json(json.loads(Path(path).read_text()))
    except (OSError, ValueError, TypeError, KeyError, Wrong) as error:
        print(f"no bundle: {error}")
        return 2
    try:
        case = Case(bundle)
        receipt = case.judge()
    except Wrong as wrong:
        print(f"refused: {wrong}")
        return 1
    if receipt is None:
        # A head may cover fewer tokens than came: the others are nobody's.
        print(f"consistent, without a receipt: order {case.id.hex()}, {len(case.tokens)} tokens")
    else:
        paid = sum(payment["msat"] for payment in receipt["payments"])
        signatures = "signed by both" if bundle["countersigned"] else "signed by the host"
        print(f"consistent: order {case.id.hex()} of host {case.host.hex()[:8]} on {case.network}, "
              f"{len(case.tokens)} tokens, ended by {receipt['finish']}, cost {receipt['cost']} msat, "
              f"paid {paid} msat in {len(receipt['payments'])} payments, debt {receipt['debt']} msat, "
              f"receipt {signatures}")
    print(case.text)
    return 0


# ---------------------------------------------------------------- the golden vectors

VECTORS = {
    "envelope": ENVELOPE, "pulse": PULSE, "bundle": BUNDLE, "order": ORDER_BODY, "terms": TERMS,
    "invoice": INVOICE, "paid": PAID, "receipt": RECEIPT, "countersigned": COUNTERSIGNED,
    "verdict": VERDICT, "manifest": MANIFEST, "quote-request": QUOTE_REQUEST, "host-quote": HOST_QUOTE,
    "router-offer": ROUTER_OFFER, "mandate": MANDATE, "revocation": REVOCATION,
}


def type_of(name):
    """The type of a vector by its name."""
    if name in VECTORS:
        return VECTORS[name]
    for prefix, of in (("signed-", SIGNED), ("quote-frame-", QUOTE_FRAME), ("frame-", FRAME),
                       ("blob-frame-", BLOB_FRAME),
                       ("audit-", AUDIT_FRAME), ("order-", ORDER_BODY), ("verdict-", VERDICT)):
        if name.startswith(prefix):
            return of
    raise Wrong(f"vector {name} is of no type that this reader knows")


def read_lines(path):
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def check_vectors(folder):
    wire = {name: bytes.fromhex(text) for name, text in read_lines(folder / "wire.hex").items()}
    for name, data in wire.items():
        of = type_of(name)
        check(of.write(decode(of, data)) == data, f"{name} does not encode to what was decoded")
        for other in (data[:-1], data[:len(data) // 2], data + b"\0"):
            try:
                decode(of, other)
            except Wrong:
                continue
            raise Wrong(f"{name} decodes although it is cut or lengthened")
        if of is SIGNED:
            kind = "".join(part.capitalize() for part in name.split("-")[1:])
            open_signed(decode(SIGNED, data), kind, "regtest")
    check_hashes(wire, read_lines(folder / "hashes.hex"))
    for case in json.loads((folder / "text.json").read_text()):
        tokens = [{"piece": {"control": piece["control"], "bytes": bytes(piece["bytes"])}} for piece in case["pieces"]]
        text, stopped = render(tokens, case["stop"])
        check((text, stopped) == (case["text"], case["stopped"]), f"a text is shown as {text!r}: {case}")
    manifest = json.loads((folder / "manifest.json").read_text())
    check(MANIFEST.write(MANIFEST.from_json(manifest)) == wire["manifest"],
          "manifest.json is not the manifest of wire.hex")
    return len(wire)


def check_hashes(wire, known):
    """Every value of hashes.hex, computed from wire.hex."""
    found = {}
    for name, secret in (("key-buyer", 1), ("key-host", 2), ("key-validator", 3)):
        key = affine(multiply(G, int.from_bytes(bytes([secret]) * 32, "big")))
        found[name] = key[0].to_bytes(32, "big")
    order, terms = (decode(SIGNED, wire[f"signed-{name}"]) for name in ("order", "terms"))
    found["digest-order"], found["digest-terms"] = digest(order), digest(terms)
    tokens = decode(BUNDLE, wire["bundle"])["tokens"]
    for n, head in enumerate(chain(digest(order), digest(terms), tokens)):
        found[f"chain-{n}"] = head
    invoice = decode(INVOICE, wire["invoice"])
    check(invoice["order"] == digest(order)[:16], "the order id is not the half of its digest")
    found["description-hash"] = description_hash(invoice["order"], invoice["seq"], invoice["covers"])
    prompt = b"".join(struct.pack("<I", token) for token in (1, 2, 3))
    found["prompt-digest"] = tagged_hash("freehold/prompt/1", b"\x5a" * 16, prompt)
    statement = f"freehold node key {found['key-host'].hex()} on regtest"
    found["lightning-statement-text"] = statement.encode()
    for name, text in known.items():
        check(name in found, f"hash {name} is none that this reader knows")
        check(found[name].hex() == text, f"hash {name} is computed otherwise here")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--vectors":
        try:
            count = check_vectors(Path(arguments[1]))
        except Wrong as wrong:
            print(f"refused: {wrong}")
            return 1
        print(f"all {count} vectors read and written alike, all hashes and texts agree")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    return judge_file(arguments[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
