import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Pattern;

import org.apache.kafka.storage.internals.checkpoint.LeaderEpochCheckpointFile;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;

/**
 * Reads partition directories with Kafka's own dump tool and checkpoint class, and complains about
 * whatever they complain about. Exit code 1 if there is anything.
 */
public final class ReadPartition {
    private static final Pattern COMPLAINT = Pattern.compile(
        "Mismatches in|Non-consecutive|isvalid: false|timestamp mismatch|Mismatches|out of order|"
            + "bytes at the end of|invalid bytes|Index timestamp|could not be|Exception|sanity|corrupt",
        Pattern.CASE_INSENSITIVE);

    public static void main(String[] directories) throws Exception {
        int complaints = 0;
        long batches = 0;
        long entries = 0;
        int files = 0;
        PrintStream out = System.out;
        // Scala's console keeps the first standard output that it sees, so that one is set for good.
        ByteArrayOutputStream captured = new ByteArrayOutputStream();
        PrintStream capture = new PrintStream(captured, true, StandardCharsets.UTF_8);
        System.setOut(capture);
        System.setErr(capture);
        for (String directory : directories) {
            for (File file : sorted(new File(directory))) {
                String name = file.getName();
                if (name.equals("leader-epoch-checkpoint")) {
                    var read = new LeaderEpochCheckpointFile(file, new LogDirFailureChannel(1)).read();
                    out.printf("%-60s %d epochs%n", name, read.size());
                    files++;
                    continue;
                }
                if (!name.matches(".*\\.(log|index|timeindex|snapshot)")) continue;
                List<String[]> runs = new ArrayList<>();
                if (name.endsWith(".log")) {
                    runs.add(new String[] {"--deep-iteration", "--files", file.getPath()});
                } else if (name.endsWith("index")) {
                    runs.add(new String[] {"--files", file.getPath()});
                    runs.add(new String[] {"--index-sanity-check", "--files", file.getPath()});
                } else {
                    runs.add(new String[] {"--files", file.getPath()});
                }
                for (String[] run : runs) {
                    captured.reset();
                    String trouble = null;
                    try {
                        kafka.tools.DumpLogSegments.main(run);
                    } catch (Throwable thrown) {
                        trouble = thrown.toString();
                    }
                    String[] lines = captured.toString(StandardCharsets.UTF_8).split("\n");
                    for (String line : lines) {
                        if (line.startsWith("baseOffset:")) batches++;
                        if (line.startsWith("offset:") || line.startsWith("timestamp:")) entries++;
                        boolean passed = line.contains("passed sanity check");
                        if (!passed && COMPLAINT.matcher(line).find()) trouble = line;
                    }
                    if (trouble != null) {
                        complaints++;
                        out.printf("COMPLAINT %s %s: %s%n", String.join(" ", run), directory, trouble);
                    }
                }
                files++;
            }
        }
        out.printf("%d files, %d batches, %d index entries read; %d complaints%n",
            files, batches, entries, complaints);
        System.exit(complaints == 0 && batches > 0 && entries > 0 ? 0 : 1);
    }

    private static File[] sorted(File directory) {
        File[] found = directory.listFiles();
        if (found == null) throw new IllegalArgumentException(directory + " is not a directory");
        Arrays.sort(found);
        return found;
    }
}
