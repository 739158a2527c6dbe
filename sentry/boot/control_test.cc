// The configuration and the packets survive the way from the CLI to the sentry.
#include "sentry/boot/control.h"

#include <gtest/gtest.h>

#include "base/host_call.h"

namespace skep::boot {
namespace {

TEST(BootConfigJson, EveryFieldComesBack) {
  BootConfig config;
  config.id = "box";
  config.argv = {"sh", "-c", "echo \xff\x80\xc3\xa9\n\"quoted\""};
  config.env = {"A=1", "B="};
  config.exec_path = "/bin/sh";
  config.cwd = "/tmp";
  config.uid = 4294967294;
  config.groups = {1, 2, 3};
  config.capabilities.effective = ~uint64_t{0};
  config.capabilities.ambient = 5;
  config.no_new_privs = true;
  config.rlimits = {{7, 1024, ~uint64_t{0}}};
  config.oom_score_adj = -999;
  config.unkillable_init = false;
  config.terminal_errors = false;
  config.terminal_input = false;
  MountConfig mount;
  mount.destination = "/";
  mount.kind = MountConfig::Kind::kDev;
  mount.attach = 3;
  mount.read_only = true;
  mount.size = 1ULL << 40;
  config.mounts = {mount};
  config.masked_paths = {"/proc/kcore"};
  config.memory_limit = 1ULL << 33;
  config.stdio_fds[1] = 1;
  config.gofer_fd = 9;
  const auto back = FromJson(ToJson(config));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->argv, config.argv);
  EXPECT_EQ(back->rlimits[0].hard, ~uint64_t{0});
  EXPECT_EQ(back->mounts[0].kind, MountConfig::Kind::kDev);
  EXPECT_EQ(back->stdio_fds[0], -1);
  EXPECT_EQ(back->oom_score_adj, -999);
  EXPECT_FALSE(back->unkillable_init);
  EXPECT_FALSE(back->terminal_errors);
  EXPECT_FALSE(back->terminal_input);
  EXPECT_EQ(back->uid, 4294967294U);
  EXPECT_EQ(ToJson(*back), ToJson(config));
}

TEST(BootConfigJson, RefusesWhatIsMissingOrMalformed) {
  EXPECT_FALSE(FromJson(""));
  EXPECT_FALSE(FromJson("[]"));
  EXPECT_FALSE(FromJson("{}"));
  std::string text = ToJson(BootConfig());
  const size_t at = text.find("\"workers\":0");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 11, "\"workers\":4294967296");
  const auto config = FromJson(text);
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().message.find("workers"), std::string::npos);
}

TEST(ControlSocket, CarriesEventsAndCommands) {
  host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  ASSERT_TRUE(SendEvent(pair.a.get(), {SentryEvent::Kind::kFailed, 2, "no such program"}));
  const auto event = ReceiveEvent(pair.b.get());
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, SentryEvent::Kind::kFailed);
  EXPECT_EQ(event->status, 2);
  EXPECT_EQ(event->text, "no such program");
  ASSERT_TRUE(SendCommand(pair.b.get(), {CliCommand::Kind::kWindow, 24 << 16 | 80}));
  const auto command = ReceiveCommand(pair.a.get());
  ASSERT_TRUE(command);
  EXPECT_EQ(command->value, 24U << 16 | 80U);
  pair.a.Reset();
  EXPECT_FALSE(ReceiveEvent(pair.b.get()));
  EXPECT_FALSE(SendCommand(pair.b.get(), {CliCommand::Kind::kContinue, 0}));
}

}  // namespace
}  // namespace skep::boot
