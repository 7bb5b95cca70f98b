// The walk of the tutorial with the types that openapi-typescript generates, and openapi-fetch.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const baseUrl = process.env.FOLLOWS_ADDRESS!;
const client = (token?: string) =>
  createClient<paths>({ baseUrl, headers: token ? { Authorization: `Bearer ${token}` } : {} });
const viewer = client(process.env.VIEWER_TOKEN);
const service = client(process.env.SERVICE_TOKEN);
const conflict: components["schemas"]["ErrorBody"]["code"] = "conflict";

async function walkV1(): Promise<void> {
  const one = { params: { path: { user_id: "demo-channel" } } };
  const stranger = { params: { path: { user_id: "demo-stranger" } } };
  const status = await viewer.GET("/v1/users/{user_id}/follow-status", one);
  assert.equal(status.data?.is_following, true);
  assert.equal(status.data?.followed_at, "2024-08-03T15:05:31Z");
  const page = await viewer.GET("/v1/users/{user_id}/followers", {
    params: { ...one.params, query: { page: 1, per_page: 2 } },
  });
  assert.equal(page.data?.pagination.total_pages, 140);
  const made = await viewer.POST("/v1/users/{user_id}/follow", stranger);
  assert.equal(made.response.status, 201);
  assert.equal(made.data?.follower_id, "demo-viewer");
  const again = await viewer.POST("/v1/users/{user_id}/follow", stranger);
  assert.equal(again.error?.error.code, conflict);
  const mine = await viewer.GET("/v1/users/{user_id}/following", {
    params: {
      path: { user_id: "me" },
      query: { per_page: 1 },
      header: { "Follow-Position": Number(made.response.headers.get("Follow-Position")) },
    },
  });
  assert.equal(mine.data?.data[0]?.id, "demo-stranger");
  const ended = await viewer.DELETE("/v1/users/{user_id}/follow", stranger);
  assert.equal(ended.response.status, 204);
  const refused = await viewer.POST("/v1/users/{user_id}/follow", { params: { path: { user_id: "me" } } });
  assert.equal(refused.error?.error.code, "validation_error");
}

async function walkDirectory(): Promise<void> {
  const params = { path: { user_id: "new-host" } };
  const made = await service.PUT("/v1/users/{user_id}", {
    params,
    body: { username: "NewHost", bio: "Cooking, slowly.", is_available: true },
  });
  assert.equal(made.response.status, 201);
  assert.equal(made.data?.broadcast, null);
  const live = await service.PUT("/v1/users/{user_id}/broadcast", {
    params,
    body: { game: "Cooking", title: "Bread", viewers: 120 },
  });
  assert.equal(live.response.status, 204);
  const shown = await viewer.GET("/v1/users/{user_id}", { params });
  assert.equal(shown.data?.broadcast?.viewers, 120);
  assert.equal((await service.DELETE("/v1/users/{user_id}/broadcast", { params })).response.status, 204);
  assert.equal((await service.DELETE("/v1/users/{user_id}", { params })).response.status, 204);
  const gone = await viewer.GET("/v1/users/{user_id}", { params });
  assert.equal(gone.error?.error.code, "not_found");
}

async function walkKraken(): Promise<void> {
  const root = await viewer.GET("/kraken");
  assert.equal(root.data?.token.user_name, "demo_viewer");
  const anonymous = await client().GET("/kraken");
  assert.equal(anonymous.data?.token.authorization, null);
  const channel = { path: { channel: "demo_channel" } };
  const page = await viewer.GET("/kraken/channels/{channel}/follows", { params: { ...channel, query: { limit: 1 } } });
  assert.equal(page.data?._total, 280);
  assert.equal(page.data?.follows[0]?.user.name, "dustyurchin");
  const onward = await viewer.GET("/kraken/channels/{channel}/follows", {
    params: { ...channel, query: { limit: 1, cursor: page.data?._cursor } },
  });
  assert.notEqual(onward.data?.follows[0]?.user.name, "dustyurchin");
  const followed = await viewer.GET("/kraken/users/{user}/follows/channels", {
    params: { path: { user: "demo_viewer" }, query: { limit: 1, sortby: "last_broadcast" } },
  });
  assert.equal(followed.data?.follows[0]?.channel.game, "Pinball");
  const path = { user: "demo_viewer", target: "demo_stranger" };
  const put = await viewer.PUT("/kraken/users/{user}/follows/channels/{target}", {
    params: { path, query: { notifications: true } },
  });
  assert.equal(put.data?.notifications, true);
  const ended = await viewer.DELETE("/kraken/users/{user}/follows/channels/{target}", { params: { path } });
  assert.equal(ended.response.status, 204);
  const missing = await viewer.GET("/kraken/users/{user}/follows/channels/{target}", { params: { path } });
  assert.equal(missing.error?.status, 404);
  const live = await viewer.GET("/kraken/streams/followed", { params: { query: { limit: 1 } } });
  assert.equal(live.data?.streams[0]?.game, "Chess");
  const refused = await client().GET("/kraken/streams/followed");
  assert.match(refused.error?.message ?? "", /user_read/);
}

await walkV1();
await walkDirectory();
await walkKraken();
