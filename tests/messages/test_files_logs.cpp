// Messages of files and logs: the proto3 JSON mapping, from literals.
#include "fault.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"
#include "messages/logs.hpp"
#include "support/catch.hpp"

#include <string>

using namespace cwsandbox::messages;
using namespace std::chrono;

TEST_CASE("the published file messages", "[messages]") {
  WriteFileRequest write;
  write.sandbox_id = "s";
  write.path = "/a";
  write.content = std::string("\0\xff\x01", 3);
  CHECK(sorted(to_json(write)) == R"({"content":"AP8B","path":"/a","sandboxId":"s"})");
  const auto read = from_json<WriteFileRequest>(R"({"sandbox_id":"s","path":"/a","content":"AP8B","container":"c"})");
  CHECK(read.content == write.content);
  CHECK(read.container == "c");
  CHECK(fault_of([] { (void)from_json<WriteFileRequest>(R"({"content":"!"})"); }) == "content");
  CHECK(from_json<ReadFileRequest>(R"({"sandboxId":"s","path":"p"})").path == "p");
  CHECK(from_json<ReadFileResponse>(R"({"content":"YQ=="})").content == "a");
  CHECK(sorted(to_json(ReadFileResponse{"a"})) == R"({"content":"YQ=="})");
  write.path = "\xff";  // the published message has no place for it
  CHECK(fault_of([&] { (void)to_json(write); }) == "path");
}

TEST_CASE("paths that are no text travel as bytes", "[messages]") {
  StatFileRequest stat;
  stat.sandbox_id = "s";
  stat.path = "/\xff";
  CHECK(sorted(to_json(stat)) == R"({"pathBytes":"L/8=","sandboxId":"s"})");
  CHECK(from_json<StatFileRequest>(to_json(stat)).path == stat.path);
  stat.path = "/\xc3\xa4";
  stat.follow_symlinks = true;
  CHECK(sorted(to_json(stat)) == "{\"followSymlinks\":true,\"path\":\"/\xc3\xa4\",\"sandboxId\":\"s\"}");
  CHECK(fault_of([] { (void)from_json<StatFileRequest>(R"({"sandboxId":"s"})"); }) == "path");
  CHECK(fault_of([] { (void)from_json<StatFileRequest>(R"({"path":""})"); }) == "path");
  CHECK(fault_of([] { (void)from_json<StatFileRequest>(R"({"path":"a","pathBytes":"YQ=="})"); }) == "pathBytes");
  CHECK(fault_of([] { (void)from_json<StatFileRequest>(R"({"pathBytes":"?"})"); }) == "pathBytes");

  RenameFileRequest rename;
  rename.from = "\xfe";
  rename.to = "b";
  CHECK(sorted(to_json(rename)) == R"({"fromBytes":"/g==","to":"b"})");
  CHECK(from_json<RenameFileRequest>(to_json(rename)).from == "\xfe");
  CHECK(fault_of([] { (void)from_json<RenameFileRequest>(R"({"from":"a"})"); }) == "to");
}

TEST_CASE("what is asked of a file or directory", "[messages]") {
  MakeDirectoryRequest make = from_json<MakeDirectoryRequest>(R"({"path":"d","mode":448,"parents":true})");
  CHECK(make.mode == 0700U);
  CHECK(make.parents);
  CHECK_FALSE(from_json<MakeDirectoryRequest>(R"({"path":"d"})").mode);
  make.mode = 0;
  CHECK(sorted(to_json(make)) == R"({"mode":0,"parents":true,"path":"d"})");
  CHECK(fault_of([] { (void)from_json<MakeDirectoryRequest>(R"({"path":"d","mode":-1})"); }) == "mode");
  CHECK(fault_of([] { (void)from_json<MakeDirectoryRequest>(R"({"path":"d","mode":4294967296})"); }) == "mode");
  const auto remove = from_json<RemoveFileRequest>(R"({"path":"d","recursive":true,"allow_missing":true})");
  CHECK(remove.recursive);
  CHECK(remove.allow_missing);
  CHECK(from_json<ListFilesRequest>(R"({"path":"d"})").path == "d");
}

TEST_CASE("what a file is", "[messages]") {
  FileInfo info;
  info.name = "a\xff";
  info.type = FileType::symlink;
  info.size = 18446744073709551615U;
  info.mode = 0777;
  info.uid = 4294967295U;
  info.modify_time = system_clock::time_point(seconds(1'700'000'000));
  info.link_target = "t";
  const std::string json =
      R"({"linkTarget":"t","mode":511,"modifyTime":"2023-11-14T22:13:20Z","nameBytes":"Yf8=","size":"18446744073709551615",)"
      R"("type":"FILE_TYPE_SYMLINK","uid":4294967295})";
  CHECK(sorted(to_json(info)) == json);
  CHECK(sorted(to_json(from_json<FileInfo>(json))) == json);
  CHECK(from_json<FileInfo>(R"({"type":2})").type == FileType::directory);
  CHECK(from_json<FileInfo>(R"({"type":"FILE_TYPE_DOOR"})").type == FileType::unspecified);
  CHECK(from_json<FileInfo>(R"({"type":99})").type == FileType::unspecified);
  CHECK(fault_of([] { (void)from_json<FileInfo>(R"({"size":"-1"})"); }) == "size");
  CHECK(fault_of([] { (void)from_json<ListFilesResponse>(R"({"files":[{},{"size":{}}]})"); }) == "files[1].size");
  ListFilesResponse list;
  list.files = {info, FileInfo{}};
  CHECK(from_json<ListFilesResponse>(to_json(list)).files.size() == 2);
}

TEST_CASE("a watch is asked for, and events come", "[messages]") {
  WatchFileRequest request;
  request.sandbox_id = "s";
  request.path = "a\377b";
  CHECK(sorted(to_json(request)) == R"({"pathBytes":"Yf9i","sandboxId":"s"})");
  CHECK(from_json<WatchFileRequest>(to_json(request)).path == request.path);
  CHECK(fault_of([] { (void)from_json<WatchFileRequest>(R"({"sandboxId":"s"})"); }) == "path");

  WatchFileResponse response;
  CHECK(sorted(to_json(response)) == "{}");
  FileEvent event;
  event.kind = FileEventKind::renamed;
  event.name = "b";
  event.old_name = "\377";
  event.directory = true;
  response.events = {event, FileEvent{}};
  CHECK(sorted(to_json(response)) ==
        R"({"events":[{"directory":true,"kind":"FILE_EVENT_KIND_RENAMED","name":"b","oldNameBytes":"/w=="},{}]})");
  const auto read = from_json<WatchFileResponse>(to_json(response));
  REQUIRE(read.events.size() == 2);
  CHECK(read.events[0].kind == FileEventKind::renamed);
  CHECK(read.events[0].old_name == "\377");
  CHECK(read.events[0].directory);
  CHECK(from_json<WatchFileResponse>(R"({"events":[{"kind":"FILE_EVENT_KIND_NEW"}]})").events[0].kind ==
        FileEventKind::unspecified);
  CHECK(fault_of([] { (void)from_json<WatchFileResponse>(R"({"events":[{},{"kind":[]}]})"); }) == "events[1].kind");
}

TEST_CASE("logs are asked for and come in entries", "[messages]") {
  const std::string asked = R"({"follow":true,"resumeLogOffset":"18446744073709551615","resumeLogSessionId":"l","sandboxId":"s",)"
                            R"("sinceTime":"2023-11-14T22:13:20Z","tailLines":5,"timestamps":true})";
  const auto request = from_json<StreamLogsRequest>(asked);
  CHECK(request.resume_log_offset == 18446744073709551615U);
  CHECK(request.tail_lines == 5);
  CHECK(sorted(to_json(request)) == asked);
  CHECK(fault_of([] { (void)from_json<StreamLogsRequest>(R"({"sinceTime":"now"})"); }) == "sinceTime");

  LogEntry entry;
  entry.data = "a\nb\n";
  entry.log_session_id = "l";
  entry.next_log_offset = 4;
  CHECK(sorted(to_json(entry)) == R"({"data":"YQpiCg==","logSessionId":"l","nextLogOffset":"4"})");
  CHECK(from_json<LogEntry>(to_json(entry)).data == entry.data);
  CHECK_FALSE(from_json<LogEntry>("{}").error);
  entry.error = LogStreamError{"lost", "REPLAY_GAP"};
  const auto read = from_json<LogEntry>(to_json(entry));
  REQUIRE(read.error);
  CHECK(read.error->code == "REPLAY_GAP");
  CHECK(from_json<LogEntry>(R"({"error":{}})").error);
  CHECK(fault_of([] { (void)from_json<LogEntry>(R"({"error":{"code":1}})"); }) == "error.code");
}
