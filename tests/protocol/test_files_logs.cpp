// Messages of files and logs: the proto3 JSON mapping, from literals.
#include "fault.hpp"
#include "protocol/messages.hpp"
#include "support/catch.hpp"

#include <string>

using namespace cwsandbox::protocol;
using namespace std::chrono;

TEST_CASE("the published file messages", "[messages]") {
  WriteFileRequest write;
  write.sandbox_id = "s";
  write.path = "/a";
  write.content = std::string("\0\xff\x01", 3);
  CHECK(to_json(write) == R"({"content":"AP8B","path":"/a","sandboxId":"s"})");
  const auto read = parse_write_file_request(R"({"sandbox_id":"s","path":"/a","content":"AP8B","container":"c"})");
  CHECK(read.content == write.content);
  CHECK(read.container == "c");
  CHECK(fault_of([] { (void)parse_write_file_request(R"({"content":"!"})"); }) == "content");
  CHECK(parse_read_file_request(R"({"sandboxId":"s","path":"p"})").path == "p");
  CHECK(parse_read_file_response(R"({"content":"YQ=="})").content == "a");
  CHECK(to_json(ReadFileResponse{"a"}) == R"({"content":"YQ=="})");
  write.path = "\xff";  // the published message has no place for it
  CHECK(fault_of([&] { (void)to_json(write); }) == "path");
}

TEST_CASE("paths that are no text travel as bytes", "[messages]") {
  StatFileRequest stat;
  stat.sandbox_id = "s";
  stat.path.bytes = "/\xff";
  CHECK(to_json(stat) == R"({"pathBytes":"L/8=","sandboxId":"s"})");
  CHECK(parse_stat_file_request(to_json(stat)).path.bytes == stat.path.bytes);
  stat.path.bytes = "/\xc3\xa4";
  stat.follow_symlinks = true;
  CHECK(to_json(stat) == "{\"followSymlinks\":true,\"path\":\"/\xc3\xa4\",\"sandboxId\":\"s\"}");
  CHECK(fault_of([] { (void)parse_stat_file_request(R"({"sandboxId":"s"})"); }) == "path");
  CHECK(fault_of([] { (void)parse_stat_file_request(R"({"path":""})"); }) == "path");
  CHECK(fault_of([] { (void)parse_stat_file_request(R"({"path":"a","pathBytes":"YQ=="})"); }) == "pathBytes");
  CHECK(fault_of([] { (void)parse_stat_file_request(R"({"pathBytes":"?"})"); }) == "pathBytes");

  RenameFileRequest rename;
  rename.from.bytes = "\xfe";
  rename.to.bytes = "b";
  CHECK(to_json(rename) == R"({"fromBytes":"/g==","to":"b"})");
  CHECK(parse_rename_file_request(to_json(rename)).from.bytes == "\xfe");
  CHECK(fault_of([] { (void)parse_rename_file_request(R"({"from":"a"})"); }) == "to");
}

TEST_CASE("what is asked of a file or directory", "[messages]") {
  MakeDirectoryRequest make = parse_make_directory_request(R"({"path":"d","mode":448,"parents":true})");
  CHECK(make.mode == 0700U);
  CHECK(make.parents);
  CHECK_FALSE(parse_make_directory_request(R"({"path":"d"})").mode);
  make.mode = 0;
  CHECK(to_json(make) == R"({"mode":0,"parents":true,"path":"d"})");
  CHECK(fault_of([] { (void)parse_make_directory_request(R"({"path":"d","mode":-1})"); }) == "mode");
  CHECK(fault_of([] { (void)parse_make_directory_request(R"({"path":"d","mode":4294967296})"); }) == "mode");
  const auto remove = parse_remove_file_request(R"({"path":"d","recursive":true,"allow_missing":true})");
  CHECK(remove.recursive);
  CHECK(remove.allow_missing);
  CHECK(parse_list_files_request(R"({"path":"d"})").path.bytes == "d");
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
  CHECK(to_json(info) == json);
  CHECK(to_json(parse_file_info(json)) == json);
  CHECK(parse_file_info(R"({"type":2})").type == FileType::directory);
  CHECK(parse_file_info(R"({"type":"FILE_TYPE_DOOR"})").type == FileType::unspecified);
  CHECK(parse_file_info(R"({"type":99})").type == FileType::unspecified);
  CHECK(fault_of([] { (void)parse_file_info(R"({"size":"-1"})"); }) == "size");
  CHECK(fault_of([] { (void)parse_list_files_response(R"({"files":[{},{"size":{}}]})"); }) == "files[1].size");
  ListFilesResponse list;
  list.files = {info, FileInfo{}};
  CHECK(parse_list_files_response(to_json(list)).files.size() == 2);
}

TEST_CASE("a watch is asked for, and events come", "[messages]") {
  WatchFileRequest request;
  request.sandbox_id = "s";
  request.path.bytes = "a\377b";
  CHECK(to_json(request) == R"({"pathBytes":"Yf9i","sandboxId":"s"})");
  CHECK(parse_watch_file_request(to_json(request)).path.bytes == request.path.bytes);
  CHECK(fault_of([] { (void)parse_watch_file_request(R"({"sandboxId":"s"})"); }) == "path");

  WatchFileResponse response;
  CHECK(to_json(response) == "{}");
  FileEvent event;
  event.kind = FileEventKind::renamed;
  event.name = "b";
  event.old_name = "\377";
  event.directory = true;
  response.events = {event, FileEvent{}};
  CHECK(to_json(response) ==
        R"({"events":[{"directory":true,"kind":"FILE_EVENT_KIND_RENAMED","name":"b","oldNameBytes":"/w=="},{}]})");
  const auto read = parse_watch_file_response(to_json(response));
  REQUIRE(read.events.size() == 2);
  CHECK(read.events[0].kind == FileEventKind::renamed);
  CHECK(read.events[0].old_name == "\377");
  CHECK(read.events[0].directory);
  CHECK(parse_watch_file_response(R"({"events":[{"kind":"FILE_EVENT_KIND_NEW"}]})").events[0].kind == FileEventKind::unspecified);
  CHECK(fault_of([] { (void)parse_watch_file_response(R"({"events":[{},{"kind":[]}]})"); }) == "events[1].kind");
}

TEST_CASE("logs are asked for and come in entries", "[messages]") {
  const std::string asked = R"({"follow":true,"resumeLogOffset":"18446744073709551615","resumeLogSessionId":"l","sandboxId":"s",)"
                            R"("sinceTime":"2023-11-14T22:13:20Z","tailLines":5,"timestamps":true})";
  const auto request = parse_stream_logs_request(asked);
  CHECK(request.resume_log_offset == 18446744073709551615U);
  CHECK(request.tail_lines == 5);
  CHECK(to_json(request) == asked);
  CHECK(fault_of([] { (void)parse_stream_logs_request(R"({"sinceTime":"now"})"); }) == "sinceTime");

  LogEntry entry;
  entry.data = "a\nb\n";
  entry.log_session_id = "l";
  entry.next_log_offset = 4;
  CHECK(to_json(entry) == R"({"data":"YQpiCg==","logSessionId":"l","nextLogOffset":"4"})");
  CHECK(parse_log_entry(to_json(entry)).data == entry.data);
  CHECK_FALSE(parse_log_entry("{}").error);
  entry.error = LogStreamError{"lost", "REPLAY_GAP"};
  const auto read = parse_log_entry(to_json(entry));
  REQUIRE(read.error);
  CHECK(read.error->code == "REPLAY_GAP");
  CHECK(parse_log_entry(R"({"error":{}})").error);
  CHECK(fault_of([] { (void)parse_log_entry(R"({"error":{"code":1}})"); }) == "error.code");
}
