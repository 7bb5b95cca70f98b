// The walk of the tutorial with the Go client that openapi-generator generates.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"walk/follows"
)

var client = newClient()
var anonymous = context.Background()
var viewer = withToken("VIEWER_TOKEN")
var service = withToken("SERVICE_TOKEN")

func newClient() *follows.APIClient {
	configuration := follows.NewConfiguration()
	configuration.Servers = follows.ServerConfigurations{{URL: os.Getenv("FOLLOWS_ADDRESS")}}
	return follows.NewAPIClient(configuration)
}

func withToken(name string) context.Context {
	return context.WithValue(context.Background(), follows.ContextAccessToken, os.Getenv(name))
}

func check(holds bool, what string, found ...any) {
	if !holds {
		fmt.Fprintln(os.Stderr, "wrong:", what, found)
		os.Exit(1)
	}
}

func done(answer *http.Response, err error, status int, what string) {
	check(err == nil && answer.StatusCode == status, what, err)
}

// codeOf returns the code that a call of /v1 is refused with.
func codeOf(err error) string {
	failed, isAPIError := err.(*follows.GenericOpenAPIError)
	check(isAPIError, "the call was not refused", err)
	answer, isAnswer := failed.Model().(follows.ErrorAnswer)
	check(isAnswer, "the error has another form", failed.Model())
	return answer.Error.Code
}

// refusal returns the error that a call of /kraken is refused with.
func refusal(err error) follows.ErrorObject {
	failed, isAPIError := err.(*follows.GenericOpenAPIError)
	check(isAPIError, "the call was not refused", err)
	answer, isAnswer := failed.Model().(follows.ErrorObject)
	check(isAnswer, "the error has another form", failed.Model())
	return answer
}

func walkV1() {
	api := client.FollowsAPI
	status, answer, err := api.FollowStatus(viewer, "demo-channel").Execute()
	done(answer, err, 200, "status")
	followedAt := status.FollowedAt.Get()
	check(status.IsFollowing && followedAt.Equal(time.Date(2024, 8, 3, 15, 5, 31, 0, time.UTC)), "followed at", followedAt)
	page, answer, err := api.ListFollowers(viewer, "demo-channel").Page(1).PerPage(2).Execute()
	done(answer, err, 200, "followers")
	check(len(page.Data) == 2 && page.Pagination.TotalPages == 140, "pages", page.Pagination)
	made, answer, err := api.Follow(viewer, "demo-stranger").Execute()
	done(answer, err, 201, "follow")
	check(made.FollowerId == "demo-viewer", "follower", made)
	position, err := strconv.ParseInt(answer.Header.Get("Follow-Position"), 10, 64)
	check(err == nil, "position", err)
	_, _, err = api.Follow(viewer, "demo-stranger").Execute()
	check(codeOf(err) == "conflict", "follow again", err)
	mine, answer, err := api.ListFollowing(viewer, "me").PerPage(1).FollowPosition(position).Execute()
	done(answer, err, 200, "following")
	check(mine.Data[0].Id == "demo-stranger", "newest", mine.Data)
	answer, err = api.Unfollow(viewer, "demo-stranger").Execute()
	done(answer, err, 204, "unfollow")
	_, _, err = api.Follow(viewer, "me").Execute()
	check(codeOf(err) == "validation_error", "follow oneself", err)
}

func walkDirectory() {
	api := client.DirectoryAPI
	host := follows.NewUserChanges()
	host.SetUsername("NewHost")
	host.SetBio("Cooking, slowly.")
	host.SetIsAvailable(true)
	made, answer, err := api.PutUser(service, "new-host").UserChanges(*host).Execute()
	done(answer, err, 201, "put user")
	check(made.Broadcast.Get() == nil, "broadcast", made)
	live := follows.NewBroadcastChanges()
	live.SetGame("Cooking")
	live.SetTitle("Bread")
	live.SetViewers(120)
	answer, err = api.PutBroadcast(service, "new-host").BroadcastChanges(*live).Execute()
	done(answer, err, 204, "put broadcast")
	shown, answer, err := api.ShowUser(viewer, "new-host").Execute()
	done(answer, err, 200, "show user")
	check(shown.Broadcast.Get().Viewers == 120, "viewers", shown)
	answer, err = api.EndBroadcast(service, "new-host").Execute()
	done(answer, err, 204, "end broadcast")
	answer, err = api.EraseUser(service, "new-host").Execute()
	done(answer, err, 204, "erase user")
	_, _, err = api.ShowUser(viewer, "new-host").Execute()
	check(codeOf(err) == "not_found", "erased user", err)
}

func walkKraken() {
	api := client.KrakenAPI
	root, answer, err := api.KrakenRoot(viewer).Execute()
	done(answer, err, 200, "root")
	check(root.Token.GetUserName() == "demo_viewer", "user name", root)
	root, answer, err = api.KrakenRoot(anonymous).Execute()
	done(answer, err, 200, "root without a token")
	check(!root.Token.Valid && root.Token.Authorization.Get() == nil, "no token", root)
	page, answer, err := api.KrakenListFollowers(anonymous, "demo_channel").Limit(1).Execute()
	done(answer, err, 200, "followers")
	check(page.Total == 280 && page.Follows[0].User.Name == "dustyurchin", "newest", page)
	page, answer, err = api.KrakenListFollowers(viewer, "demo_channel").Limit(1).Cursor(page.Cursor).Execute()
	done(answer, err, 200, "next page")
	check(page.Follows[0].User.Name != "dustyurchin", "second", page)
	followed, answer, err := api.KrakenListFollowing(viewer, "demo_viewer").Limit(1).Sortby("last_broadcast").Execute()
	done(answer, err, 200, "following")
	check(*followed.Follows[0].Channel.Game.Get() == "Pinball", "game", followed)
	put, answer, err := api.KrakenPutFollow(viewer, "demo_viewer", "demo_stranger").Notifications(true).Execute()
	done(answer, err, 200, "put follow")
	check(put.Notifications && put.Channel.Name == "demo_stranger", "follow", put)
	answer, err = api.KrakenEndFollow(viewer, "demo_viewer", "demo_stranger").Execute()
	done(answer, err, 204, "end follow")
	_, _, err = api.KrakenShowFollow(viewer, "demo_viewer", "demo_stranger").Execute()
	check(refusal(err).Status == 404, "no follow", err)
	live, answer, err := api.KrakenListLive(viewer).Limit(1).Execute()
	done(answer, err, 200, "live")
	check(*live.Streams[0].Game.Get() == "Chess", "game", live)
	_, _, err = api.KrakenListLive(anonymous).Execute()
	check(strings.Contains(refusal(err).Message, "user_read"), "scope", err)
}

func main() {
	walkV1()
	walkDirectory()
	walkKraken()
}
