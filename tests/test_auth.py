"""Tokens are held to PROTOCOL.md, "The token", and to what PITFALLS.md knows of PyJWT.

Whatever a client sends for a token, it gets a grant or :exc:`~wsd.errors.TokenError`, whose text goes to the log and
holds nothing of the token or the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
import warnings
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from wsd.auth import EVERYTHING, MAX_LIFETIME, Authenticator, Grant, JWTAuthenticator, OpenAuthenticator
from wsd.errors import TokenError

MARK = "wQ9-xK_7"  # stands in everything that must not be repeated
KEY = f"{MARK}-a-secret-of-more-than-32-bytes".encode()
SOON = 2_000_000_000  # an exp in the year 2033
relaxed = settings(deadline=None)

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE_KEYS: dict[str, Any] = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public_key(algorithm: str) -> bytes:
    pem: bytes = PRIVATE_KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def verifier(**options: Any) -> JWTAuthenticator:
    return JWTAuthenticator(KEY, ["HS256"], **options)


def part(content: str | bytes) -> str:
    """One of the three parts of a token."""
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(claims: str | bytes, header: str | bytes = '{"alg":"HS256"}', key: bytes = KEY) -> str:
    """Sign what no library would."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def token(**claims: object) -> str:
    """A good token, but for these claims; ``None`` leaves one out."""
    chosen = {"exp": SOON, "sub": "ann"} | claims
    return by_hand(json.dumps({name: claim for name, claim in chosen.items() if claim is not None}))


def refusal(token: str, authenticator: JWTAuthenticator | None = None) -> str:
    """The reason why a token is refused."""
    with pytest.raises(TokenError) as caught:
        (authenticator or verifier()).verify(token)
    assert caught.value.__cause__ is None  # a traceback would show the token
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    reason = str(caught.value)
    assert MARK not in reason
    assert reason.isprintable()
    assert len(reason) < 100
    return reason


# What is granted.


def test_a_good_token_is_a_grant() -> None:
    good = jwt.encode({"exp": SOON, "sub": "ann"}, KEY, algorithm="HS256")
    assert verifier().verify(good) == verifier().verify(token()) == Grant("ann", frozenset(), ("",), SOON)
    assert verifier().verify(token(topics=["news", "chat:*"])) == Grant("ann", frozenset(["news"]), ("chat:",), SOON)
    assert verifier().verify(token(sub=None)).subject == ""


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_public_keys_of_each_family(algorithm: str) -> None:
    signed = jwt.encode({"exp": SOON}, PRIVATE_KEYS[algorithm], algorithm=algorithm)
    assert JWTAuthenticator(public_key(algorithm), [algorithm]).verify(signed).expires_at == SOON
    for other in PRIVATE_KEYS.keys() - {algorithm}:
        assert "alg" in refusal(signed, JWTAuthenticator(public_key(other), [other]))
    head, _, signature = signed.rpartition(".")
    refusal(f"{head}.{signature[4:]}AAAA", JWTAuthenticator(public_key(algorithm), [algorithm]))


def test_a_token_may_name_any_of_several_algorithms() -> None:
    authenticator = JWTAuthenticator(public_key("RS256"), ["RS256", "PS256"])
    for algorithm in ("RS256", "PS256"):
        authenticator.verify(jwt.encode({"exp": SOON}, RSA, algorithm=algorithm))


def test_the_key_may_be_replaced() -> None:
    authenticator, other = verifier(), KEY[::-1]
    renewed = jwt.encode({"exp": SOON}, other, algorithm="HS256")
    refusal(renewed, authenticator)
    authenticator.use_key(other)
    authenticator.verify(renewed)
    refusal(token(), authenticator)


@pytest.mark.parametrize("exp", [10**10, 10**400, 1e300])
def test_a_far_expiry_is_bounded_before_it_reaches_a_timer(exp: float) -> None:
    expires_at = verifier().verify(token(exp=exp)).expires_at
    assert expires_at == pytest.approx(time.time() + MAX_LIFETIME, abs=60)


@pytest.mark.parametrize("exp", [SOON, SOON + 0.5])
def test_a_near_expiry_is_taken_as_it_is(exp: float) -> None:
    assert verifier().verify(token(exp=exp)).expires_at == exp


# What is refused.


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": None}, "exp"),
        ({"exp": 0}, "expired"),
        ({"exp": -5}, "expired"),
        ({"exp": -(10**400)}, "expired"),
        ({"exp": 1_000_000_000.5}, "expired"),
        ({"exp": str(SOON)}, "exp is not a number"),
        ({"exp": True}, ""),
        ({"exp": [SOON]}, ""),
        ({"exp": {}}, ""),
        ({"exp": "soon"}, ""),
        ({"nbf": SOON}, "not yet valid"),
        ({"nbf": "soon"}, ""),
        ({"nbf": 10**400}, "not yet valid"),
        ({"iat": SOON}, "not yet valid"),
        ({"iat": []}, ""),
        ({"aud": "other"}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": {}, "exp": 0}, "expired"),
        ({"topics": "news"}, "not a list of strings"),
        ({"topics": ["news", 5]}, "not a list of strings"),
        ({"topics": {"news": True}}, "not a list of strings"),
        ({"topics": [["news"]]}, "not a list of strings"),
        ({"topics": True}, "not a list of strings"),
        ({"topics": 0}, "not a list of strings"),
    ],
    ids=str,
)
def test_claims_that_grant_nothing(claims: dict[str, object], words: str) -> None:
    assert words in refusal(token(**claims))


@pytest.mark.parametrize(
    "claims",
    [
        '{"exp":NaN}',
        '{"exp":Infinity}',
        '{"exp":-Infinity}',
        '{"exp":1e999}',
        '{"exp":null}',
        '{"exp":' + "9" * 5000 + "}",
        '{"exp":2000000000,"nbf":Infinity}',
        '{"exp":2000000000,"nbf":NaN}',
        '{"exp":2000000000,"iat":1e999}',
        '{"exp":2000000000,"sub":5}',
        '{"exp":2000000000,"sub":null}',
        '{"exp":2000000000,"jti":5}',
        '{"exp":2000000000,"topics":null}',
        '[{"exp":2000000000}]',
        '"exp"',
        "null",
        "",
        "exp",
        '{"exp":2000000000',
        b'{"exp":2000000000,"sub":"\xff"}',
        '{"exp":2000000000,"x":' + "[" * 30_000 + "]" * 30_000 + "}",
    ],
    ids=lambda claims: str(claims)[:40],
)
def test_claims_that_are_not_even_right_in_form_although_they_are_signed(claims: str | bytes) -> None:
    refusal(by_hand(claims))


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        '{"alg":null}',
        '{"alg":["HS256"]}',
        '{"alg":{}}',
        '{"alg":5}',
        '{"alg":"none"}',
        '{"alg":"NONE"}',
        '{"alg":""}',
        '{"alg":"hs256"}',
        '{"alg":"HS512"}',
        '{"alg":"RS256"}',
        f'{{"alg":"{MARK}"}}',
        f'{{"alg":"HS256","kid":["{MARK}"]}}',
        f'{{"alg":"HS256","crit":["{MARK}"]}}',
        '{"alg":"HS256","crit":["b64"],"b64":false}',
        '{"alg":"HS256","b64":false}',
        '["alg"]',
        "null",
        "",
        '{"alg":"\ud800"}',
        "[" * 40_000 + "]" * 40_000,
        '{"alg":' + "9" * 5000 + "}",
    ],
    ids=lambda header: header[:40],
)
def test_headers_that_are_refused_although_the_signature_is_right(header: str) -> None:
    refusal(by_hand(json.dumps({"exp": SOON, "sub": MARK}), header))


def test_a_signature_of_another_key_or_of_other_claims_is_refused() -> None:
    assert "Signature" in refusal(by_hand('{"exp":2000000000}', key=KEY[1:]))
    header, claims, signature = token(topics=[]).split(".")
    assert "Signature" in refusal(f"{header}.{part(json.dumps({'exp': SOON}))}.{signature}")
    refusal(f"{header}.{claims}.")


def test_an_unsigned_token_is_refused() -> None:
    refusal(jwt.encode({"exp": SOON}, "", algorithm="none"))
    refusal(jwt.encode({"exp": SOON}, "", algorithm="none"), JWTAuthenticator(public_key("RS256"), ["RS256"]))


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_the_public_key_is_not_taken_for_a_shared_secret(algorithm: str) -> None:
    pem = public_key(algorithm)
    for key in (pem, pem.strip()):
        forged = by_hand('{"exp":2000000000}', key=key)
        assert "alg" in refusal(forged, JWTAuthenticator(pem, [algorithm]))


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        MARK,
        "\ud800",
        "\udfff.\udfff.\udfff",
        token() + "\ud800",
        token() + "\n",
        f"Bearer {token()}",
        token().replace(".", ".."),
        "A" * 65536,
        "." * 65536,
        "=" * 65536,
        "é" * 32768,
        f"{part(MARK)}.{part(MARK)}.{part(MARK)}",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_rubbish_is_refused(rubbish: str) -> None:
    refusal(rubbish)


def test_a_public_key_does_not_serve_as_a_shared_secret() -> None:
    pem = public_key("RS256")
    assert "decoded" in refusal(by_hand('{"exp":2000000000}', key=pem), JWTAuthenticator(pem, ["HS256"]))


# Audience, issuer, clocks.


@pytest.mark.parametrize(
    ("options", "claims", "words"),
    [
        ({"audience": "wsd"}, {"aud": "wsd"}, ""),
        ({"audience": "wsd"}, {"aud": ["other", "wsd"]}, ""),
        ({"audience": "wsd"}, {}, 'missing the "aud"'),
        ({"audience": "wsd"}, {"aud": "wsd2"}, "Audience"),
        ({"audience": "wsd"}, {"aud": "WSD"}, "Audience"),
        ({"audience": "wsd"}, {"aud": []}, 'missing the "aud"'),
        ({"audience": "wsd"}, {"aud": ["wsd", 5]}, "claim format"),
        ({"audience": "wsd"}, {"aud": {"wsd": 1}}, "claim format"),
        ({"audience": "wsd"}, {"aud": MARK}, "Audience"),
        ({}, {"iss": "anyone"}, ""),
        ({"issuer": "me"}, {"iss": "me"}, ""),
        ({"issuer": "me"}, {}, 'missing the "iss"'),
        ({"issuer": "me"}, {"iss": "m"}, "issuer"),
        ({"issuer": "me"}, {"iss": ["me"]}, "iss"),
        ({"issuer": "me"}, {"iss": MARK}, "issuer"),
        ({"leeway": 60.0}, {"exp": 30.0}, "expired"),
        ({"require_topics": True}, {}, "the claim topics is missing"),
        ({"require_topics": True}, {"topics": []}, ""),
        ({"require_topics": True}, {"topics": ["*"]}, ""),
    ],
    ids=str,
)
def test_what_is_configured_is_checked(options: dict[str, Any], claims: dict[str, object], words: str) -> None:
    signed = token(**claims)
    if words:
        assert words in refusal(signed, verifier(**options))
    else:
        verifier(**options).verify(signed)


@pytest.mark.parametrize(("claim", "offset"), [("exp", -1), ("nbf", 1), ("iat", 1)])
def test_the_leeway_forgives_clocks_that_differ(claim: str, offset: int) -> None:
    moment = round(time.time()) + offset * 30
    refusal(token(**{claim: moment}))
    refusal(token(**{claim: moment}), verifier(leeway=5))
    grant = verifier(leeway=120).verify(token(**{claim: moment}))
    assert grant.expires_at == (moment if claim == "exp" else SOON) + 120


# What a grant permits.


@pytest.mark.parametrize(
    ("topics", "permitted", "forbidden"),
    [
        (["news"], ["news"], ["new", "newsroom", "News", "", "news*"]),
        (["news*"], ["news", "newsroom", "news*"], ["new", "xnews", ""]),
        (["*"], ["", "a", "é", "*"], []),
        (["**"], ["*", "*a"], ["", "a"]),
        (["a*b"], ["a*b"], ["ab", "axb"]),
        (["[a]", "?"], ["[a]", "?"], ["a", "b"]),
        ([], [], ["", "a", "*"]),
        ([""], [""], ["a"]),
        (["é*", "日本"], ["é", "été"[2:], "日本"], ["e\u0301", "日", "日本語"]),
        (["a", "b:*", "c"], ["a", "b:", "b:x", "c"], ["b", "ab:x", "cc"]),
        (["\ud800*"], [], ["a"]),
    ],
)
def test_a_grant_permits_exact_topics_and_prefixes(
    topics: list[str], permitted: list[str], forbidden: list[str]
) -> None:
    grant = verifier().verify(token(topics=topics))
    assert [topic for topic in permitted + forbidden if grant.permits(topic)] == permitted


@relaxed
@given(st.lists(st.text("ab*", max_size=3), max_size=4), st.text("ab*", max_size=4))
def test_permission_is_by_the_rule_and_no_other(topics: list[str], topic: str) -> None:
    by_the_rule = any(topic.startswith(t[:-1]) if t.endswith("*") else topic == t for t in topics)
    assert verifier().verify(token(topics=topics)).permits(topic) is by_the_rule


def test_without_the_claim_every_topic_is_permitted() -> None:
    assert verifier().verify(token()).permits("anything")


def test_with_authentication_off_any_string_will_do() -> None:
    authenticator: Authenticator = OpenAuthenticator()
    assert authenticator.initial is EVERYTHING
    assert authenticator.verify("\ud800") is EVERYTHING
    assert EVERYTHING.permits("anything")
    assert EVERYTHING.expires_at == math.inf


# Whatever a token holds.

LEAVES = st.sampled_from(
    [MARK, "*", SOON, 0, -1, 1e308, 10**400, True, None, math.nan, math.inf, "HS256", "ann", "\ud800"]
)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from([MARK, "a"]), LEAVES, max_size=2)
CLAIMS = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "topics", MARK]), VALUES, max_size=5
)
HEADERS = st.dictionaries(st.sampled_from(["typ", "kid", "crit", "b64", "cty", MARK]), VALUES, max_size=3)
ANYTHING = st.recursive(VALUES, lambda values: st.lists(values) | st.dictionaries(st.text(), values))


@relaxed
@given(CLAIMS | ANYTHING, HEADERS)
def test_whatever_is_signed_is_a_grant_or_a_refusal(claims: Any, header: dict[str, Any]) -> None:
    signed = by_hand(json.dumps(claims), json.dumps({"alg": "HS256"} | header))
    try:
        grant = verifier().verify(signed)
    except TokenError:
        refusal(signed)
    else:
        assert type(claims["exp"]) in (int, float)
        assert math.isfinite(grant.expires_at)
        assert type(grant.subject) is str
        assert all(type(topic) is str for topic in (*grant.topics, *grant.prefixes))


PIECES = st.sampled_from([*token().split("."), ".", "=", "", MARK, part(MARK), part("{}"), "\ud800", "\0"]) | st.text(
    st.characters()
)


@relaxed
@given(st.lists(PIECES, max_size=7).map("".join))
def test_whatever_is_sent_for_a_token_is_refused_without_repeating_it(text: str) -> None:
    if text != token():
        refusal(f"{text}{MARK}")
        refusal(f"{MARK}{text}")


def test_no_token_makes_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verifier().verify(token())
        refusal("x")
