"""tries"""
from tests.api.in_process import InProcess
async def test_a(service: InProcess) -> None:
    a = await service.person("a"); b = await service.person("b")
    r = await a.follow(b)
    print(r.status_code, r.text, r.headers)
    P=service.platform
    for path in ["/v1/users/%00/follow-status", "/v1/users/%ff", "/v1/users/a%2Fb", "/v1/users/%F0%9F%98%80", "/v1/users/..", "/v1/nope", "/nope", "/v1", "/v1/", "/v1/users/", "/v1//users/x", f"/v1/users/{b.id}/"]:
        for m in ("GET","DELETE", "PUT"):
            r = await P.request(m, path, **({"json":{}} if m=="PUT" else {}))
            print(m, path, r.status_code, r.text[:200])
    for q in ["page=0","page=abc","page=","page=1e3","page=1.0","page=%201","page=+1", "page=1_0","page="+"9"*30,"page="+"9"*5000,"page=1&page=2","per_page=0","per_page=101","per_page=-1","page=%ff","page=%00","page=9223372036854775807","page=9223372036854775808", "page=%D9%A1", "x=%ff", "page", "&&&=", "page=true","page=01"]:
        r = await a.get(f"/v1/users/me/following?{q}")
        print(q[:40], r.status_code, r.text[:300], r.headers.get("link"))
    for body in [b"", b"nope", b"[]", b"null", b"{}", b'"x"', b"\xff", b'{"bio":"\xff"}', b'{"bio":"\\u0000"}', b'{"bio":"\\ud800"}', b'{"bio":'+b"["*50000, b"["*60000, b'{"a":'*9000, b'{"bio":1}', b'{"bio":"a","username":5,"views":"x"}', b'{"views":'+b"9"*60+b"}", b'{"views":1e400}',b'{"views":NaN}', b'{"nope":1}', b'{"username":null}', b'{"username":"a b"}', b'{"display_name":""}', b'{"display_name":"'+b"x"*129+b'"}', b'{"bio":"'+b"x"*70000+b'"}', b'{"bio":"a","bio":"b"}', b'{"display_name":"   "}', b'{"is_available":"true"}', b'{"bio":"x"} trailing', b'\xef\xbb\xbf{}']:
        r = await P.put(f"/v1/users/{b.id}", content=body)
        print(body[:40], r.status_code, r.text[:300])
    for ct in ["text/plain","application/json; charset=nope","application/x-www-form-urlencoded","multipart/form-data","\xff".encode("latin-1"), "application/msgpack", "application/json;charset=utf-16"]:
        r = await P.put(f"/v1/users/{b.id}", content=b'{"bio":"x"}', headers={"Content-Type": ct})
        print(ct, r.status_code, r.text[:300])
    for m in ("HEAD","OPTIONS","PATCH","POST","TRACE","FOO"):
        r = await P.request(m, f"/v1/users/{b.id}")
        print(m, r.status_code, r.text[:200], dict(r.headers))
    for h in ["-1","","abc","9"*30,"1.5","\u00b2".encode("latin-1")]:
        r = await a.get(f"/v1/users/me/following", headers={"Follow-Position":h})
        print(h, r.status_code, r.text[:200])
        r = await service.anybody.get(f"/v1/users/me/following", headers={"Follow-Position":h})
        print(h, r.status_code, r.text[:200])
    for h in ["","x"*256,"\u00b2".encode("latin-1"), "a\tb"]:
        r = await a.post(f"/v1/users/nobody/follow", headers={"Idempotency-Key":h})
        print(h, r.status_code, r.text[:200])
    c = service.stranger("nul", display_name="a\0b", email="x\0y", picture="http://\0")
    r = await c.follow(b); print(r.status_code, r.text)
    c = service.stranger("sur", display_name="a\ud800b")
    r = await c.follow(b); print(r.status_code, r.text)
    assert 0
