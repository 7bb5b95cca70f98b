// The walk of the tutorial with the TypeScript client that openapi-generator generates.
import assert from "node:assert/strict";
import { Configuration, DirectoryApi, FollowsApi, KrakenApi, ResponseError } from "./client/index.js";
import type { ErrorAnswer, ErrorObject } from "./client/index.js";

const basePath = process.env.FOLLOWS_ADDRESS!;
const configuration = (token?: string) => new Configuration(token ? { basePath, accessToken: token } : { basePath });
const viewer = configuration(process.env.VIEWER_TOKEN);
const service = configuration(process.env.SERVICE_TOKEN);

async function refusal<T>(call: Promise<unknown>): Promise<T> {
  try {
    await call;
  } catch (error) {
    assert(error instanceof ResponseError, String(error));
    return (await error.response.json()) as T;
  }
  throw new Error("the call was not refused");
}

const codeOf = async (call: Promise<unknown>) => (await refusal<ErrorAnswer>(call)).error.code;

async function walkV1(): Promise<void> {
  const follows = new FollowsApi(viewer);
  const status = await follows.followStatus({ userId: "demo-channel" });
  assert.equal(status.isFollowing, true);
  assert.equal(status.followedAt?.toISOString(), "2024-08-03T15:05:31.000Z");
  const page = await follows.listFollowers({ userId: "demo-channel", page: 1, perPage: 2 });
  assert.equal(page.pagination.totalPages, 140);
  const made = await follows.followRaw({ userId: "demo-stranger" });
  assert.equal(made.raw.status, 201);
  assert.equal((await made.value()).followerId, "demo-viewer");
  assert.equal(await codeOf(follows.follow({ userId: "demo-stranger" })), "conflict");
  const followPosition = Number(made.raw.headers.get("Follow-Position"));
  const mine = await follows.listFollowing({ userId: "me", perPage: 1, followPosition });
  assert.equal(mine.data[0]?.id, "demo-stranger");
  await follows.unfollow({ userId: "demo-stranger" });
  assert.equal(await codeOf(follows.follow({ userId: "me" })), "validation_error");
}

async function walkDirectory(): Promise<void> {
  const directory = new DirectoryApi(service);
  const reader = new DirectoryApi(viewer);
  const userId = "new-host";
  const userChanges = { username: "NewHost", bio: "Cooking, slowly.", isAvailable: true };
  assert.equal((await directory.putUser({ userId, userChanges })).broadcast, null);
  await directory.putBroadcast({ userId, broadcastChanges: { game: "Cooking", title: "Bread", viewers: 120 } });
  assert.equal((await reader.showUser({ userId })).broadcast?.viewers, 120);
  await directory.endBroadcast({ userId });
  await directory.eraseUser({ userId });
  assert.equal(await codeOf(reader.showUser({ userId })), "not_found");
}

async function walkKraken(): Promise<void> {
  const kraken = new KrakenApi(viewer);
  const anonymous = new KrakenApi(configuration());
  assert.equal((await kraken.krakenRoot()).token.userName, "demo_viewer");
  assert.equal((await anonymous.krakenRoot()).token.authorization, null);
  const page = await anonymous.krakenListFollowers({ channel: "demo_channel", limit: 1 });
  assert.equal(page.total, 280);
  assert.equal(page.follows[0]?.user.name, "dustyurchin");
  const onward = await kraken.krakenListFollowers({ channel: "demo_channel", limit: 1, cursor: page.cursor });
  assert.notEqual(onward.follows[0]?.user.name, "dustyurchin");
  const followed = await kraken.krakenListFollowing({ user: "demo_viewer", limit: 1, sortby: "last_broadcast" });
  assert.equal(followed.follows[0]?.channel.game, "Pinball");
  const path = { user: "demo_viewer", target: "demo_stranger" };
  assert.equal((await kraken.krakenPutFollow({ ...path, notifications: true })).notifications, true);
  await kraken.krakenEndFollow(path);
  assert.equal((await refusal<ErrorObject>(kraken.krakenShowFollow(path))).status, 404);
  assert.equal((await kraken.krakenListLive({ limit: 1 })).streams[0]?.game, "Chess");
  assert.match((await refusal<ErrorObject>(anonymous.krakenListLive())).message, /user_read/);
}

await walkV1();
await walkDirectory();
await walkKraken();
